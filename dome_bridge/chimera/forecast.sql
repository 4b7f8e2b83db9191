What the quarantine will hold, found without writing to a permanent table: directories are
projected first and walked from the root, then all else is projected below the ones reached.
The decisions are those of project.sql; here they are only kept and counted.

-- name: prepare
CREATE INDEX ON tree (parent);
CREATE TEMP TABLE directory_fact (fileid bigint, reason text, subject text, detail text);
CREATE INDEX ON directory_fact (fileid);
CREATE TEMP TABLE namesake (fileid bigint PRIMARY KEY, detail text);

CREATE TEMP VIEW foreseen_directory AS
SELECT fileid, 'entry' AS scope, reason, '' AS subject, detail FROM tree WHERE reason IS NOT NULL
UNION ALL
SELECT f.fileid, 'fact', f.reason, f.subject, f.detail
  FROM directory_fact f JOIN tree t ON t.fileid = f.fileid AND t.reason IS NULL;

-- Replicas of directories are read together with those of files.
CREATE TEMP VIEW foreseen_entry AS
SELECT fileid, scope, reason, subject, detail FROM reported
UNION ALL
SELECT f.fileid, 'fact', f.reason, f.subject, f.detail
  FROM projected_fact f JOIN tree t ON t.fileid = f.fileid AND t.reason IS NULL;

-- name: read_only
SET default_transaction_read_only = on

-- name: pool_map
INSERT INTO pool_map (server, fs, poolname, pool, server_key, prefix, sole)
SELECT server, fs, poolname, pool, lower(encode(server, 'escape')), rtrim(encode(fs, 'escape'), '/') || '/',
       count(*) OVER (PARTITION BY server, fs) = 1
  FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::text[]) f (server, fs, poolname, pool)

-- name: note_namesakes
INSERT INTO namesake (fileid, detail)
SELECT fileid, detail FROM projected_entry WHERE reason = 'duplicate-name'

-- name: namesakes
UPDATE projected_entry p SET reason = 'duplicate-name', detail = n.detail
  FROM namesake n WHERE n.fileid = p.fileid AND p.reason IS NULL

-- name: note_directories
INSERT INTO tree (fileid, parent, raw_name, reason, detail)
SELECT fileid, parent, raw_name, reason, detail FROM projected_entry

-- name: note_directory_facts
INSERT INTO directory_fact (fileid, reason, subject, detail)
SELECT fileid, reason, subject, detail FROM projected_fact

-- name: refuse_directory
INSERT INTO tree (fileid, reason, detail) VALUES ($1, 'refused-by-chimera', $2)

-- name: reach_directories
INSERT INTO known_dir (inumber)
WITH RECURSIVE reach (fileid) AS (
    SELECT {root_fileid}::bigint
    UNION ALL
    SELECT t.fileid FROM reach r JOIN tree t ON t.parent = r.fileid
     WHERE t.reason IS NULL AND t.fileid <> {root_fileid}
)
SELECT pg_temp.inumber(fileid) FROM reach

-- name: leave_out_unreached
UPDATE tree t SET reason = 'parent-absent', detail = 'parent fileid ' || coalesce(t.parent, 0)
 WHERE t.reason IS NULL
   AND NOT EXISTS (SELECT FROM known_dir k WHERE k.inumber = pg_temp.inumber(t.fileid))

-- name: tally
-- As the quarantine keeps them: one row for each subject, told apart by its beginning.
SELECT scope, reason, count(*) AS findings,
       array_agg(fileid ORDER BY fileid) FILTER (WHERE place <= $1) AS fileids,
       array_agg(detail ORDER BY fileid) FILTER (WHERE place <= $1) AS details
  FROM (SELECT scope, reason, fileid, detail,
               row_number() OVER (PARTITION BY scope, reason ORDER BY fileid) AS place
          FROM (SELECT DISTINCT ON (fileid, scope, reason, left(subject, 200))
                       fileid, scope, reason, detail
                  FROM {foreseen} ORDER BY fileid, scope, reason, left(subject, 200)) o) p
 GROUP BY scope, reason ORDER BY scope, reason
