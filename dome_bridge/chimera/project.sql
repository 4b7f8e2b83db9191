The mapping: staged DPM rows in, Chimera rows and quarantine reasons out. Snapshot,
follow, verify, repair and check all run these statements, in the order of this file.
Nothing here writes to a permanent table.

-- name: requested
INSERT INTO scope SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING

-- name: staged
INSERT INTO scope SELECT fileid FROM stage_entry

-- name: mirrored_in_range
INSERT INTO scope SELECT pg_temp.fileid(n.inumber) FROM t_inodes n
 WHERE n.inumber BETWEEN $1::bigint + {offset} AND $2::bigint + {offset}
   AND n.ipnfsid = pg_temp.pnfsid(pg_temp.fileid(n.inumber)) ON CONFLICT DO NOTHING

-- name: quarantined_in_range
INSERT INTO scope SELECT DISTINCT fileid::bigint FROM dome_bridge.quarantine
 WHERE fileid BETWEEN $1 AND $2 ON CONFLICT DO NOTHING

-- name: distinct_acls
SELECT DISTINCT acl, mode FROM stage_entry WHERE acl IS NOT NULL AND mode & 61440 IN (16384, 32768)

-- name: replicas
INSERT INTO projected_replica (rowid, fileid, pool, reason, detail)
SELECT r.rowid, r.fileid, m.pool,
       CASE WHEN r.status = 'P' THEN 'being-written'
            WHEN r.status = 'D' THEN 'being-deleted'
            WHEN r.status IS DISTINCT FROM '-' THEN 'replica-status'
            WHEN r.claimed THEN 'sfn-claimed-twice'
            WHEN e.sfn IS NULL OR e.sfn LIKE '%/../%' OR e.sfn LIKE '%/./%' OR e.sfn LIKE '%/..'
                 OR e.sfn LIKE '%/.' OR e.sfn LIKE '%/' OR position('\x00'::bytea IN r.sfn) > 0
            THEN 'sfn-not-plain' END,
       e.sfn
  FROM stage_replica r
 CROSS JOIN LATERAL (SELECT encode(r.sfn, 'escape') AS sfn) e
  LEFT JOIN pool_map m ON m.server = r.host AND m.fs = r.fs AND m.poolname = r.poolname
        AND starts_with(e.sfn, encode(m.server, 'escape') || ':' || m.prefix)

-- name: replicas_by_sfn
-- Only the sfn is sure: host, fs and poolname of a replica are copies that some tools leave
-- empty or stale. The longest mount point that the path lies below is its file system.
UPDATE projected_replica p SET pool = f.pool, odd_host = f.odd_host
  FROM (SELECT r.rowid, m.pool, split_part(q.detail, ':', 1) <> m.server AS odd_host
          FROM projected_replica q
          JOIN stage_replica r ON r.rowid = q.rowid AND r.fileid = q.fileid
         CROSS JOIN LATERAL (
               SELECT CASE WHEN sole OR poolname = r.poolname THEN pool END AS pool,
                      encode(server, 'escape') AS server
                 FROM pool_map
                WHERE server_key = lower(split_part(q.detail, ':', 1))
                  AND starts_with(substr(q.detail, strpos(q.detail, ':') + 1), prefix)
                ORDER BY length(prefix) DESC, (poolname = r.poolname) DESC LIMIT 1) m
         WHERE q.pool IS NULL AND q.reason IS NULL) f
 WHERE p.rowid = f.rowid

-- name: replicas_unplaced
UPDATE projected_replica SET reason = 'unknown-filesystem' WHERE pool IS NULL AND reason IS NULL

-- name: replicas_at_fault
-- What a disk node has reported, as long as it contradicts the catalog.
UPDATE projected_replica p
   SET reason = CASE WHEN f.size IS NULL THEN 'replica-missing' ELSE 'replica-size' END
  FROM disk_finding f JOIN stage_entry e ON e.fileid = f.fileid
 WHERE p.fileid = f.fileid AND p.reason IS NULL
   AND substr(p.detail, strpos(p.detail, ':') + 1) = f.pfn AND f.size IS DISTINCT FROM e.size
   AND (SELECT EXISTS (SELECT FROM disk_finding))

-- name: locations
INSERT INTO projected_location (fileid, pool, rowid)
SELECT fileid, pool, min(rowid) FROM projected_replica WHERE reason IS NULL GROUP BY fileid, pool

-- name: entries
-- OFFSET 0 keeps a subquery as it is, so that each of its columns is computed once a row.
INSERT INTO projected_entry (fileid, inumber, parent, iparent, raw_name, name, itype, imode, uid, gid,
    size, iio, ctime, atime, mtime, crtime, target, acl, mode, reason, detail)
SELECT fileid, pg_temp.inumber(fileid), parent, pg_temp.inumber(parent), name, text_name, itype,
       CASE WHEN itype = 40960 THEN 511 ELSE coalesce(acl_imode, (mode & 4095)::integer) END,
       CASE WHEN owner <= 2147483647 THEN owner::integer END,
       CASE WHEN grp <= 2147483647 THEN grp::integer END,
       CASE WHEN itype = 16384 THEN 512
            WHEN itype = 40960 THEN octet_length(linkname)
            WHEN size <= 9223372036854775807 THEN size::bigint END,
       CASE itype WHEN 32768 THEN 3 WHEN 16384 THEN 2 ELSE 1 END,
       coalesce(valid_ctime, valid_mtime, '1970-01-02'),
       coalesce(valid_atime, valid_mtime, valid_ctime, '1970-01-02'),
       coalesce(valid_mtime, valid_ctime, '1970-01-02'),
       coalesce(least(valid_atime, valid_mtime, valid_ctime), '1970-01-02'),
       CASE WHEN itype = 40960 THEN linkname END,
       CASE WHEN itype <> 40960 AND acl_reason IS NULL THEN acl END, mode, reason,
       CASE WHEN reason IS NOT NULL
            THEN concat_ws('; ', 'mode ' || to_hex(mode), 'owner ' || owner || ':' || grp, 'size ' || size,
                           'status ' || encode(nullif(status, '-'), 'escape'), left(replicas, 400)) END
  FROM (
    SELECT e.*, t.itype, s.linkname, b.replicas, a.imode AS acl_imode, a.reason AS acl_reason,
           CASE WHEN e.fileid = {root_fileid} THEN NULL
                WHEN t.itype IS NULL THEN 'type-unknown'
                WHEN e.name IS NULL OR e.name = '' THEN 'name-empty'
                WHEN e.text_name IS NULL THEN 'name-not-utf8'
                WHEN e.text_name IN ('.', '..') THEN 'name-reserved'
                WHEN position('/' IN e.text_name) > 0 THEN 'name-has-slash'
                WHEN octet_length(e.name) > 255 AND length(e.text_name)
                     + length(regexp_replace(e.text_name, '[\u0001-\uffff]', '', 'g')) > 255
                THEN 'name-too-long'
                WHEN e.owner IS NULL OR e.owner > 2147483647 OR e.grp IS NULL OR e.grp > 2147483647
                THEN 'owner-out-of-range'
                WHEN e.status = 'D' THEN 'status-deleted'
                WHEN t.itype = 32768 AND (e.size IS NULL OR e.size > 9223372036854775807)
                THEN 'size-out-of-range'
                WHEN t.itype = 32768 AND l.fileid IS NULL
                THEN CASE WHEN b.fileid IS NULL THEN 'no-replica'
                          WHEN b.writing THEN 'being-written' ELSE 'no-usable-replica' END
                WHEN t.itype = 40960 AND s.linkname IS NULL THEN 'symlink-without-target'
                WHEN t.itype = 40960 AND s.linkname = '' THEN 'symlink-target-empty'
                WHEN t.itype = 40960 AND pg_temp.utf8(s.linkname) IS NULL THEN 'symlink-target-not-utf8'
           END AS reason
      FROM (SELECT *, pg_temp.utf8(name) AS text_name, pg_temp.valid_time(ctime) AS valid_ctime,
                   pg_temp.valid_time(mtime) AS valid_mtime, pg_temp.valid_time(atime) AS valid_atime
              FROM stage_entry OFFSET 0) e
     CROSS JOIN LATERAL (SELECT CASE WHEN e.mode & 61440 IN (16384, 32768, 40960)
                                     THEN (e.mode & 61440)::integer END AS itype) t
      LEFT JOIN acl_form a ON a.acl = e.acl AND a.mode = e.mode
      LEFT JOIN stage_symlink s ON s.fileid = e.fileid
      LEFT JOIN (SELECT DISTINCT fileid FROM projected_location) l ON l.fileid = e.fileid
      LEFT JOIN (SELECT fileid, bool_and(reason = 'being-written') AS writing,
                        string_agg(reason || ' ' || coalesce(detail, ''), ', ' ORDER BY rowid) AS replicas
                   FROM projected_replica WHERE reason IS NOT NULL GROUP BY fileid) b ON b.fileid = e.fileid
    OFFSET 0) d

-- name: checksums
INSERT INTO projected_checksum (fileid, itype, isum, name, reason)
WITH parsed AS MATERIALIZED (
    SELECT fileid, pg_temp.json_object(xattr) AS attributes
      FROM stage_entry WHERE xattr IS NOT NULL AND mode & 61440 = 32768
), given AS (
    SELECT p.fileid, lower(substr(a.key, 10)) AS name, a.value, 0 AS rank
      FROM parsed p CROSS JOIN LATERAL jsonb_each_text(p.attributes) a
     WHERE a.key LIKE 'checksum.%'
    UNION ALL
    SELECT e.fileid, coalesce(k.name, encode(e.csumtype, 'escape')), encode(e.csumvalue, 'escape'), 1
      FROM stage_entry e
      LEFT JOIN checksum_kind k ON k.legacy = upper(encode(e.csumtype, 'escape'))
     WHERE e.csumtype <> '' AND e.csumvalue <> '' AND e.mode & 61440 = 32768
), chosen AS (
    SELECT DISTINCT ON (g.fileid, k.itype, CASE WHEN k.itype IS NULL THEN g.name END) g.fileid, g.name, k.itype, k.digits,
           CASE WHEN k.itype = 1 AND length(v.isum) < 8 AND v.isum <> '' THEN lpad(v.isum, 8, '0')
                ELSE v.isum END AS isum
      FROM given g
     CROSS JOIN LATERAL (SELECT lower(btrim(g.value, E' \t\r\n')) AS isum) v
      LEFT JOIN checksum_kind k ON k.name = g.name
     ORDER BY g.fileid, k.itype, CASE WHEN k.itype IS NULL THEN g.name END, g.rank, g.name
)
SELECT fileid, itype, isum, name,
       CASE WHEN itype IS NULL THEN 'checksum-unsupported'
            WHEN isum IS NULL OR length(isum) <> digits OR translate(isum, '0123456789abcdef', '') <> ''
            THEN 'checksum-invalid' END
  FROM chosen
UNION ALL
SELECT fileid, NULL, NULL, 'xattr', 'xattr-invalid' FROM parsed WHERE attributes IS NULL

-- name: facts
INSERT INTO projected_fact (fileid, reason, subject, detail)
SELECT fileid, reason, name, coalesce(left(isum, 200), 'xattr does not parse') FROM projected_checksum
 WHERE reason IS NOT NULL
UNION ALL
SELECT fileid, reason, 'replica ' || rowid, coalesce(detail, '') FROM projected_replica
 WHERE reason IS NOT NULL
UNION ALL
SELECT r.fileid, 'second-in-pool', 'replica ' || r.rowid, r.pool || ' ' || r.detail
  FROM projected_replica r
 WHERE r.reason IS NULL
   AND NOT EXISTS (SELECT FROM projected_location l WHERE l.fileid = r.fileid AND l.rowid = r.rowid)
UNION ALL
SELECT r.fileid, 'replica-on-non-file', 'replica ' || r.rowid, coalesce(r.detail, '')
  FROM projected_replica r LEFT JOIN projected_entry e ON e.fileid = r.fileid
 WHERE e.itype IS DISTINCT FROM 32768 AND r.reason IS NULL
UNION ALL
SELECT e.fileid, 'acl-invalid', '', left(encode(e.acl, 'escape') || ': ' || a.reason, 500)
  FROM stage_entry e JOIN acl_form a ON a.acl = e.acl AND a.mode = e.mode WHERE a.reason IS NOT NULL
UNION ALL
SELECT e.fileid, 'time-out-of-range', t.name, coalesce(t.epoch::text, 'NULL')
  FROM stage_entry e
 CROSS JOIN LATERAL (VALUES ('mtime', e.mtime), ('ctime', e.ctime)) t (name, epoch)
 WHERE (e.mtime < 86400 OR e.mtime IS NULL OR e.ctime < 86400 OR e.ctime IS NULL)
   AND pg_temp.valid_time(t.epoch) IS NULL
UNION ALL
SELECT fileid, 'name-magic', '', 'dCache takes names beginning with .( for commands'
  FROM projected_entry WHERE starts_with(name, '.(')
UNION ALL
SELECT fileid, 'symlink-not-followed', '', 'dCache does not open through targets with non-ASCII bytes or backslashes'
  FROM projected_entry WHERE itype = 40960 AND position('\' IN encode(target, 'escape')) > 0

-- name: duplicate_names
-- The source has a unique index on (parent, name); where an old site lost it, the older entry stays.
UPDATE projected_entry p SET reason = 'duplicate-name', detail = 'same name as fileid ' || d.winner
  FROM (SELECT fileid, first_value(fileid) OVER (PARTITION BY parent, raw_name ORDER BY fileid) AS winner
          FROM projected_entry WHERE reason IS NULL) d
 WHERE d.fileid = p.fileid AND d.winner <> p.fileid

-- name: recalled
-- What only Chimera could decide, for who compares: names that dCache or an older entry holds, and
-- rows that were refused.
UPDATE projected_entry p SET reason = q.reason, detail = q.detail
  FROM dome_bridge.quarantine q
 WHERE q.fileid = p.fileid AND q.scope = 'entry' AND p.reason IS NULL AND p.fileid <> {root_fileid}
   AND NOT EXISTS (SELECT FROM t_inodes n WHERE n.inumber = p.inumber)
   AND (q.reason = 'refused-by-chimera'
        OR q.reason IN ('duplicate-name', 'name-taken')
           AND EXISTS (SELECT FROM t_dirs d
                        WHERE d.iparent = p.iparent AND d.iname = p.name AND d.ichild <> p.inumber))

-- name: inumber_taken
-- dCache numbers what it makes itself; the number of a mirrored entry must never change hands.
UPDATE projected_entry p
   SET reason = 'inumber-taken', detail = 'dCache gave inumber ' || p.inumber || ' to ' || n.ipnfsid
  FROM t_inodes n
 WHERE n.inumber = p.inumber AND n.ipnfsid <> pg_temp.pnfsid(p.fileid) AND p.reason IS NULL

-- name: name_taken
UPDATE projected_entry p
   SET reason = 'name-taken', detail = 'dCache has an entry of its own under this name, ' || n.ipnfsid
  FROM t_dirs d JOIN t_inodes n ON n.inumber = d.ichild
 WHERE d.iparent = p.iparent AND d.iname = p.name AND d.ichild <> p.inumber
   AND n.ipnfsid <> pg_temp.pnfsid(pg_temp.fileid(n.inumber))
   AND p.reason IS NULL AND p.fileid <> {root_fileid}

-- name: parents
INSERT INTO parent_state (parent, present)
SELECT o.parent, EXISTS (SELECT FROM known_dir k WHERE k.inumber = pg_temp.inumber(o.parent))
  FROM (SELECT DISTINCT parent FROM projected_entry WHERE reason IS NULL AND parent IS NOT NULL) o
 WHERE NOT EXISTS (SELECT FROM scope s WHERE s.fileid = o.parent)

-- name: endangered
-- Does a mirrored directory of the scope vanish, move, or cease to be a directory? Only then
-- can an entry lose its way to the root without being in the scope itself.
SELECT EXISTS (
    SELECT FROM scope s
      JOIN t_inodes n ON n.inumber = pg_temp.inumber(s.fileid) AND n.itype = 16384
      LEFT JOIN t_dirs d ON d.ichild = n.inumber
      LEFT JOIN projected_entry p ON p.fileid = s.fileid AND p.reason IS NULL AND p.itype = 16384
     WHERE s.fileid <> {root_fileid} AND p.iparent IS DISTINCT FROM d.iparent)

-- name: anchors
-- From each parent outside the scope upwards to the first ancestor within it.
UPDATE parent_state p SET anchor = pg_temp.fileid(u.at)
  FROM (WITH RECURSIVE up (parent, at) AS (
            SELECT parent, pg_temp.inumber(parent) FROM parent_state WHERE present
            UNION
            SELECT u.parent, d.iparent FROM up u JOIN t_dirs d ON d.ichild = u.at
             WHERE NOT EXISTS (SELECT FROM scope s WHERE s.fileid = pg_temp.fileid(u.at)))
        SELECT parent, at FROM up
         WHERE EXISTS (SELECT FROM scope s WHERE s.fileid = pg_temp.fileid(up.at))) u
 WHERE u.parent = p.parent

-- name: present_directories
INSERT INTO present_dir (fileid)
WITH RECURSIVE node AS MATERIALIZED (
    SELECT p.fileid, CASE WHEN s.parent IS NULL THEN p.parent ELSE s.anchor END AS up,
           p.fileid = {root_fileid} OR coalesce(s.present AND s.anchor IS NULL, false) AS grounded
      FROM projected_entry p LEFT JOIN parent_state s ON s.parent = p.parent
     WHERE p.itype = 16384 AND p.reason IS NULL
), reach (fileid) AS (
    SELECT fileid FROM node WHERE grounded
    UNION ALL
    SELECT n.fileid FROM reach r JOIN node n ON n.up = r.fileid WHERE NOT n.grounded
)
SELECT fileid FROM reach

-- name: absent_parents
UPDATE projected_entry p SET reason = 'parent-absent', detail = 'parent fileid ' || coalesce(p.parent, 0)
 WHERE p.reason IS NULL AND p.fileid <> {root_fileid}
   AND NOT EXISTS (SELECT FROM present_dir d WHERE d.fileid = p.parent)
   AND NOT EXISTS (SELECT FROM parent_state s WHERE s.parent = p.parent AND s.present
        AND (s.anchor IS NULL OR EXISTS (SELECT FROM present_dir d WHERE d.fileid = s.anchor)))
