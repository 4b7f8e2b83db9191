Reads of the quarantine. Paths are derived when somebody asks: a renamed directory would
otherwise change the rows of everything below it.

-- name: rows
SELECT fileid, scope, reason, subject, detail, parent, name, first_seen, last_seen
  FROM dome_bridge.quarantine ORDER BY fileid, scope, reason, subject

-- name: ways_up
-- The names from each directory up to the root, by the mirrored tree or, where a directory is
-- absent itself, by its row in the quarantine. `top` is where the way ends: anywhere but at
-- the root something is missing, or goes in a circle.
WITH RECURSIVE up (start, top, names, trail) AS (
    SELECT s.fileid, s.fileid, ARRAY[]::bytea[], ARRAY[s.fileid] FROM unnest($1::bigint[]) s (fileid)
    UNION ALL
    SELECT u.start, n.parent, n.name || u.names, u.trail || n.parent
      FROM up u
     CROSS JOIN LATERAL (
           SELECT CASE WHEN d.iparent = {root_inumber} THEN {root_fileid} ELSE d.iparent - {offset} END
                  AS parent, convert_to(d.iname, 'UTF8') AS name, 0 AS rank
             FROM t_dirs d WHERE d.ichild = u.top + {offset}
           UNION ALL
           SELECT q.parent, coalesce(q.name, ''), 1 FROM dome_bridge.quarantine q
            WHERE q.fileid = u.top AND q.scope = 'entry'
            ORDER BY rank LIMIT 1) n
     WHERE u.top <> {root_fileid} AND n.parent IS NOT NULL AND n.parent <> ALL (u.trail)
)
SELECT DISTINCT ON (start) start, top, names FROM up ORDER BY start, cardinality(names) DESC
