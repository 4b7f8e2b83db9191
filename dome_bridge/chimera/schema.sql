How a Chimera database is recognised. Read only.

-- name: tables
-- Not from the information schema, which hides what the account has no right on.
SELECT relname::text AS table_name FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')

-- name: columns
SELECT table_name::text, column_name::text FROM information_schema.columns
 WHERE table_schema = 'public' AND table_name = 't_inodes'

-- name: identity
SELECT coalesce((SELECT is_identity = 'YES' FROM information_schema.columns
  WHERE table_schema = 'public' AND table_name = 't_inodes' AND column_name = 'inumber'), false)

-- name: changes
SELECT EXISTS (SELECT FROM public.databasechangelog)

-- name: locked
SELECT EXISTS (SELECT FROM public.databasechangeloglock WHERE locked)

-- name: rights
SELECT p || ' on table ' || t AS right
  FROM unnest($1::text[]) AS t, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
 WHERE NOT has_table_privilege('public.' || t, p)

-- name: root
SELECT inumber FROM public.t_inodes WHERE ipnfsid = repeat('0', 36)
