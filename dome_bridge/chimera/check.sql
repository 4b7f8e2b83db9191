What `check` and `pools` look at in the Chimera database. Read only.

-- name: own_content
SELECT count(*) FROM (
    SELECT FROM t_inodes
     WHERE ipnfsid NOT IN (repeat('0', 36), lpad('1', 36, '0')) AND inumber <= coalesce($1, inumber)
     LIMIT 100000) n

-- name: tags
SELECT itagname FROM t_tags WHERE inumber = $1 ORDER BY itagname

-- name: may
SELECT has_database_privilege(current_database(), $1)

-- name: knows_zone
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)

-- name: trash
SELECT count(*) FROM t_locationinfo_trash
 WHERE ipnfsid LIKE '0000' || $1::text || '%'

-- name: clients
SELECT coalesce(nullif(application_name, ''), 'unnamed') AS application, usename::text AS account,
       count(*) AS sessions
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL
   AND application_name NOT LIKE 'dome-bridge%'
 GROUP BY 1, 2 ORDER BY 1, 2

-- name: lock_held
SELECT EXISTS (
    SELECT FROM pg_locks
     WHERE locktype = 'advisory' AND granted AND classid = $1 AND objid = $2
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: pool_usage
SELECT l.ilocation AS pool, count(*) AS files, coalesce(sum(n.isize), 0) AS bytes
  FROM t_locationinfo l JOIN t_inodes n USING (inumber)
 WHERE l.itype = 1 GROUP BY l.ilocation
