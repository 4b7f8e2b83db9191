The links that the disk nodes have to make: a row for each location that was ever mirrored.

Rows are written in the transaction that writes the location, so a link is visible exactly if
its inode is. `changed` is that transaction's number. A reader who remembers the oldest number that
was still in progress when it began, and asks for everything from there on the next time, misses
nothing in whatever order transactions commit; it sees some rows twice, which changes nothing.

`pfn` is text in PostgreSQL's `escape` form: it has all bytes, and plain paths as they are.
`withdrawn`: NULL while the link is wanted; 'deleted' when DPM has no such replica any more;
'withheld' when it has, but Chimera has no location for it.

-- name: note_pools
-- Pools of file systems that are gone stay known: what is linked there has to go.
INSERT INTO dome_bridge.link_pool (pool, server, fs)
SELECT dcache_pool, lower(encode(server, 'escape')), fs FROM dome_bridge.dpm_fs
    ON CONFLICT (pool) DO NOTHING

-- name: want_links
DELETE FROM wanted_link;
INSERT INTO wanted_link (fileid, pool, pfn, size) SELECT fileid, pool, pfn, size FROM projected_link

-- name: withdraw_links
UPDATE dome_bridge.link n SET withdrawn = w.how, changed = txid_current()
  FROM (SELECT l.fileid, l.pool,
               CASE WHEN (l.fileid, l.pfn) IN (SELECT r.fileid, substr(r.detail, strpos(r.detail, ':') + 1)
                                                 FROM projected_replica r WHERE r.detail IS NOT NULL)
                      OR EXISTS (SELECT FROM projected_entry p
                                  WHERE p.fileid = l.fileid AND p.reason = 'refused-by-chimera')
                    THEN 'withheld' ELSE 'deleted' END AS how
          FROM scope s JOIN dome_bridge.link l ON l.fileid = s.fileid
         WHERE NOT EXISTS (SELECT FROM wanted_link v WHERE v.fileid = l.fileid AND v.pool = l.pool)) w
 WHERE n.fileid = w.fileid AND n.pool = w.pool AND n.withdrawn IS DISTINCT FROM w.how

-- name: withdraw_links_below
-- Of entries that went with a directory, and whose own rows nobody has read.
UPDATE dome_bridge.link n SET withdrawn = 'withheld', changed = txid_current()
  FROM gone g
 WHERE NOT g.in_scope AND n.fileid = pg_temp.fileid(g.inumber) AND n.withdrawn IS NULL

-- name: upsert_links
INSERT INTO dome_bridge.link AS n (fileid, pool, pfn, size, changed)
SELECT fileid, pool, pfn, size, txid_current() FROM wanted_link
    ON CONFLICT (fileid, pool) DO UPDATE
   SET pfn = excluded.pfn, size = excluded.size, withdrawn = NULL, changed = excluded.changed
 WHERE n.withdrawn IS NOT NULL OR (n.pfn, n.size) IS DISTINCT FROM (excluded.pfn, excluded.size)

-- name: forget_findings
-- The replica that was found wanting is gone, or has another path now.
DELETE FROM dome_bridge.disk_finding f USING scope s
 WHERE f.fileid = s.fileid
   AND (f.fileid, f.pfn) NOT IN (SELECT r.fileid, substr(r.detail, strpos(r.detail, ':') + 1)
                                   FROM projected_replica r WHERE r.detail IS NOT NULL)
   AND NOT EXISTS (SELECT FROM projected_entry p WHERE p.fileid = f.fileid AND p.reason = 'refused-by-chimera')

-- name: functions
-- A path as JSON: text where it is UTF-8, else each byte beyond ASCII as the surrogate that stands for
-- it in Python.
CREATE OR REPLACE FUNCTION pg_temp.json_path(escaped text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN to_json(convert_from(decode(escaped, 'escape'), 'UTF8'))::text;
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN (SELECT '"' || string_agg(CASE WHEN b > 127 THEN '\udc' || to_hex(b)
                                          WHEN b < 32 OR b IN (34, 92, 127)
                                          THEN '\u' || lpad(to_hex(b), 4, '0')
                                          ELSE chr(b) END, '' ORDER BY i) || '"'
              FROM (SELECT i, get_byte(raw, i) AS b
                      FROM (SELECT decode(escaped, 'escape') AS raw OFFSET 0) r,
                           generate_series(0, length(raw) - 1) AS i) bytes);
END $$

-- name: instant
-- What this transaction sees, as a place to go on from.
SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster,
       txid_snapshot_xmin(txid_current_snapshot()) AS oldest,
       txid_snapshot_xmax(txid_current_snapshot()) AS next

-- name: pools
SELECT id, pool, fs FROM dome_bridge.link_pool WHERE server = $1 ORDER BY id

-- name: servers
SELECT DISTINCT server FROM dome_bridge.link_pool ORDER BY server

-- name: uncovered
-- Locations of ours without a row here: they were mirrored by a version that made none.
SELECT count(*) FROM t_locationinfo c
  JOIN dome_bridge.link_pool k ON k.pool = c.ilocation AND k.server = $1
  JOIN t_inodes n ON n.inumber = c.inumber AND left(n.ipnfsid, 20) = '0000{instance_id}'
 WHERE c.itype = 1
   AND NOT EXISTS (SELECT FROM dome_bridge.link l WHERE l.fileid = c.inumber - {offset} AND l.pool = k.id)

-- name: page
-- $1, $2, $3: the pool, its name, and the end of its lines. $4, $5: behind this transaction and entry.
-- Locations are asked as well: what dCache has deleted is not to be linked again, nor what it has put
-- there to be removed.
SELECT concat('{"pnfsid":"0000{instance_id}', upper(lpad(to_hex(l.fileid), 16, '0')), '","pfn":',
              CASE WHEN position('\' IN l.pfn) = 0 THEN to_json(l.pfn)::text ELSE pg_temp.json_path(l.pfn) END,
              ',"size":', l.size,
              CASE WHEN l.withdrawn IS NULL THEN ',"op":"link"'
                   ELSE concat(',"op":"unlink","deleted":', (l.withdrawn = 'deleted')::text,
                               CASE WHEN EXISTS (SELECT FROM dome_bridge.disk_finding f
                                                  WHERE f.fileid = l.fileid AND f.pfn = l.pfn)
                                    THEN ',"recheck":true' END) END,
              {adler32} $3::text) AS line, l.changed, l.fileid
  FROM dome_bridge.link l
  LEFT JOIN t_locationinfo c
         ON c.inumber = l.fileid + {offset} AND c.itype = 1 AND c.ilocation = $2::text AND c.istate = 1
 WHERE l.pool = $1 AND (l.changed, l.fileid) > ($4::bigint, $5::bigint)
   AND CASE WHEN l.withdrawn IS NULL THEN c.inumber IS NOT NULL ELSE c.inumber IS NULL END
 ORDER BY l.changed, l.fileid LIMIT $6

-- name: adler32
(SELECT concat(',"adler32":"', s.isum, '"') FROM t_inodes_checksum s
                WHERE s.inumber = l.fileid + {offset} AND s.itype = 1 AND l.withdrawn IS NULL),

-- name: reported
-- What a disk node says of replicas that are wanted there, in so far as the catalog still has them so.
-- A size of NULL: there is no file.
SELECT r.fileid, r.pool, l.pfn, r.size
  FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[]) AS r (fileid, pool, pfn, size)
  JOIN dome_bridge.link_pool k ON k.pool = r.pool
  JOIN dome_bridge.link l ON l.fileid = r.fileid AND l.pool = k.id AND l.pfn = encode(r.pfn, 'escape')
 WHERE l.withdrawn IS NULL AND r.size IS DISTINCT FROM l.size

-- name: wanted
SELECT k.pool, count(*) AS links FROM dome_bridge.link l JOIN dome_bridge.link_pool k ON k.id = l.pool
 WHERE k.pool = ANY($1) AND l.withdrawn IS NULL GROUP BY k.pool

-- name: note_findings
WITH noted AS (
    INSERT INTO dome_bridge.disk_finding (fileid, pfn, size)
    SELECT DISTINCT ON (fileid, pfn) fileid, pfn, size
      FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS r (fileid, pfn, size)
        ON CONFLICT (fileid, pfn) DO UPDATE SET size = excluded.size, found_at = now()
    RETURNING fileid)
INSERT INTO dome_bridge.awakened (fileid) SELECT DISTINCT fileid FROM noted ON CONFLICT DO NOTHING

-- name: drop_findings
WITH dropped AS (
    DELETE FROM dome_bridge.disk_finding f
     USING unnest($1::bigint[], $2::bytea[]) AS r (fileid, pfn)
     WHERE f.fileid = r.fileid AND f.pfn = encode(r.pfn, 'escape')
    RETURNING f.fileid), woken AS (
    INSERT INTO dome_bridge.awakened (fileid) SELECT DISTINCT fileid FROM dropped ON CONFLICT DO NOTHING)
SELECT count(*) FROM dropped
