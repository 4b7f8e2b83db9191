Makes Chimera agree with a projection, for the fileids of the scope and for nothing else.
UPDATE before delete-and-insert; whatever is deleted takes its trash rows along, because
dCache's cleaner acts on the id alone.

-- name: fresh_range
-- Nothing of ours in this range of ids yet: plain inserts will do.
SELECT NOT EXISTS (SELECT FROM t_inodes WHERE inumber BETWEEN $1::bigint + {offset} AND $2::bigint + {offset}
                    AND (itype = 16384) = $3)
   AND NOT EXISTS (SELECT FROM dome_bridge.quarantine WHERE fileid BETWEEN $1 AND $2)
   AND NOT EXISTS (SELECT FROM dome_bridge.claim WHERE fileid BETWEEN $1 AND $2)

-- name: displaced
-- Which mirrored entry holds a name that one of the scope now claims, and is not in the scope itself?
SELECT pg_temp.fileid(d.ichild) AS fileid
  FROM projected_entry p
  JOIN t_dirs d ON d.iparent = p.iparent AND d.iname = p.name
  JOIN t_inodes n ON n.inumber = d.ichild AND n.ipnfsid = pg_temp.pnfsid(pg_temp.fileid(d.ichild))
 WHERE p.reason IS NULL AND p.fileid <> {root_fileid} AND d.ichild <> p.inumber
   AND NOT EXISTS (SELECT FROM scope s WHERE s.fileid = pg_temp.fileid(d.ichild))

-- name: disarm
-- Of an entry that PostgreSQL refuses, whatever statement it was: nothing but its place is kept.
UPDATE stage_entry SET size = 0, atime = 0, mtime = 0, ctime = 0, csumtype = NULL, csumvalue = NULL,
       acl = NULL, xattr = NULL
 WHERE fileid = $1

-- name: disarm_replicas
DELETE FROM stage_replica WHERE fileid = $1

-- name: disarm_symlink
DELETE FROM stage_symlink WHERE fileid = $1

-- name: refuse
UPDATE projected_entry SET reason = 'refused-by-chimera', detail = left($2, 500)
 WHERE fileid = $1 AND fileid <> {root_fileid}

-- name: gone
-- Mirrored entries that may no longer be, with everything below them that is not decided by the
-- scope itself.
INSERT INTO gone (inumber, is_dir, in_scope)
WITH RECURSIVE top AS MATERIALIZED (
    SELECT n.inumber, n.itype = 16384 AS is_dir, p.fileid IS NULL AS vanishes
      FROM scope s
      JOIN t_inodes n ON n.inumber = pg_temp.inumber(s.fileid) AND n.ipnfsid = pg_temp.pnfsid(s.fileid)
      LEFT JOIN projected_entry p ON p.fileid = s.fileid AND p.reason IS NULL
     WHERE s.fileid <> {root_fileid} AND (p.fileid IS NULL OR (n.itype = 16384 AND p.itype <> 16384))
), down (inumber, is_dir) AS (
    SELECT inumber, is_dir FROM top
    UNION
    SELECT n.inumber, n.itype = 16384
      FROM down w JOIN t_dirs d ON d.iparent = w.inumber JOIN t_inodes n ON n.inumber = d.ichild
     WHERE w.is_dir AND NOT EXISTS (SELECT FROM scope s WHERE s.fileid = pg_temp.fileid(d.ichild))
)
SELECT w.inumber, w.is_dir, t.inumber IS NOT NULL
  FROM down w LEFT JOIN top t ON t.inumber = w.inumber WHERE coalesce(t.vanishes, true)

-- name: gone_foreign
SELECT inumber2path(n.inumber) FROM gone g JOIN t_inodes n ON n.inumber = g.inumber
 WHERE n.ipnfsid <> pg_temp.pnfsid(pg_temp.fileid(n.inumber)) LIMIT 1

-- name: insert_inodes
INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime,
    icrtime, igeneration, iaccess_latency, iretention_policy, inumber)
SELECT pg_temp.pnfsid(fileid), itype, imode, CASE itype WHEN 16384 THEN 2 ELSE 1 END, uid, gid, size, iio,
       ctime, atime, mtime, crtime, 0, CASE itype WHEN 32768 THEN 1 END, CASE itype WHEN 32768 THEN 2 END,
       inumber
  FROM projected_entry WHERE reason IS NULL AND fileid <> {root_fileid}

-- name: upsert_inodes
WITH written AS (
    INSERT INTO t_inodes AS n (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime,
        imtime, icrtime, igeneration, iaccess_latency, iretention_policy, inumber)
    SELECT pg_temp.pnfsid(fileid), itype, imode, CASE itype WHEN 16384 THEN 2 ELSE 1 END, uid, gid, size,
           iio, ctime, atime, mtime, crtime, 0, CASE itype WHEN 32768 THEN 1 END,
           CASE itype WHEN 32768 THEN 2 END, inumber
      FROM projected_entry WHERE reason IS NULL AND fileid <> {root_fileid}
    ON CONFLICT (inumber) DO UPDATE
       SET itype = excluded.itype, imode = excluded.imode, iuid = excluded.iuid, igid = excluded.igid,
           isize = excluded.isize, iio = excluded.iio, ictime = excluded.ictime, iatime = excluded.iatime,
           imtime = excluded.imtime, icrtime = least(n.icrtime, excluded.icrtime),
           iaccess_latency = excluded.iaccess_latency, iretention_policy = excluded.iretention_policy,
           inlink = CASE WHEN n.itype = excluded.itype AND n.itype = 16384 THEN n.inlink
                         ELSE excluded.inlink END
     WHERE ((n.itype, n.imode, n.iuid, n.igid, n.isize, n.iio, n.ictime, n.imtime, n.iaccess_latency,
            n.iretention_policy)
        IS DISTINCT FROM (excluded.itype, excluded.imode, excluded.iuid, excluded.igid, excluded.isize,
            excluded.iio, excluded.ictime, excluded.imtime, excluded.iaccess_latency,
            excluded.iretention_policy)
           OR (n.itype <> 16384 AND n.inlink <> 1))
       AND n.ipnfsid = excluded.ipnfsid
    RETURNING xmax = 0 AS inserted
)
SELECT count(*) FILTER (WHERE inserted) AS inserted, count(*) FILTER (WHERE NOT inserted) AS updated
  FROM written

-- name: update_root
UPDATE t_inodes n
   SET imode = p.imode, iuid = coalesce(p.uid, n.iuid), igid = coalesce(p.gid, n.igid), ictime = p.ctime,
       imtime = p.mtime
  FROM projected_entry p
 WHERE p.fileid = {root_fileid} AND n.inumber = {root_inumber}
   AND (n.imode, n.iuid, n.igid, n.ictime, n.imtime)
       IS DISTINCT FROM (p.imode, coalesce(p.uid, n.iuid), coalesce(p.gid, n.igid), p.ctime, p.mtime)

-- name: unlink_names
-- Also of what changes between directory and file: its parent counts it otherwise then.
WITH unlinked AS (
    DELETE FROM t_dirs d USING scope s
     WHERE d.ichild = pg_temp.inumber(s.fileid) AND s.fileid <> {root_fileid}
       AND NOT EXISTS (SELECT FROM projected_entry p
                         JOIN t_inodes n ON n.inumber = p.inumber AND n.itype = p.itype
                        WHERE p.fileid = s.fileid AND p.reason IS NULL
                          AND p.iparent = d.iparent AND p.name = d.iname)
       AND EXISTS (SELECT FROM t_inodes n
                    WHERE n.inumber = d.ichild AND n.ipnfsid = pg_temp.pnfsid(s.fileid))
    RETURNING d.iparent, d.ichild
)
INSERT INTO name_change (iparent, ichild, is_dir, change)
SELECT u.iparent, u.ichild, n.itype = 16384, -1
  FROM unlinked u JOIN t_inodes n ON n.inumber = u.ichild

-- name: unlink_gone_names
WITH unlinked AS (
    DELETE FROM t_dirs d USING gone g WHERE d.ichild = g.inumber RETURNING d.iparent, d.ichild, g.is_dir
)
INSERT INTO name_change (iparent, ichild, is_dir, change) SELECT iparent, ichild, is_dir, -1 FROM unlinked

-- name: link_names
WITH linked AS (
    INSERT INTO t_dirs (iparent, ichild, iname)
    SELECT p.iparent, p.inumber, p.name FROM projected_entry p
     WHERE p.reason IS NULL AND p.fileid <> {root_fileid}
       AND NOT EXISTS (SELECT FROM t_dirs d
                        WHERE d.iparent = p.iparent AND d.iname = p.name AND d.ichild = p.inumber)
    RETURNING iparent, ichild
)
INSERT INTO name_change (iparent, ichild, is_dir, change)
SELECT l.iparent, l.ichild, p.itype = 16384, 1 FROM linked l JOIN projected_entry p ON p.inumber = l.ichild

-- name: insert_names
INSERT INTO t_dirs (iparent, ichild, iname)
SELECT iparent, inumber, name FROM projected_entry WHERE reason IS NULL AND fileid <> {root_fileid}

-- name: inserted_names
INSERT INTO name_change (iparent, ichild, is_dir, change)
SELECT iparent, inumber, itype = 16384, 1 FROM projected_entry
 WHERE reason IS NULL AND fileid <> {root_fileid} AND ({links_count_files} OR itype = 16384)

-- name: link_counts
UPDATE t_inodes n SET inlink = n.inlink + c.change
  FROM (SELECT iparent, sum(change) AS change FROM name_change
         WHERE {links_count_files} OR is_dir GROUP BY iparent HAVING sum(change) <> 0) c
 WHERE n.inumber = c.iparent AND n.itype = 16384

-- name: insert_locations
INSERT INTO t_locationinfo (inumber, itype, ipriority, ictime, iatime, istate, ilocation)
SELECT p.inumber, 1, 10, p.mtime, p.mtime, 1, l.pool
  FROM projected_location l JOIN projected_entry p ON p.fileid = l.fileid
 WHERE p.reason IS NULL AND p.itype = 32768

-- name: delete_locations
DELETE FROM t_locationinfo c USING projected_entry p
 WHERE p.reason IS NULL AND c.inumber = p.inumber
   AND NOT (p.itype = 32768 AND c.itype = 1
            AND EXISTS (SELECT FROM projected_location l WHERE l.fileid = p.fileid AND l.pool = c.ilocation))

-- name: upsert_locations
INSERT INTO t_locationinfo AS c (inumber, itype, ipriority, ictime, iatime, istate, ilocation)
SELECT p.inumber, 1, 10, p.mtime, p.mtime, 1, l.pool
  FROM projected_location l JOIN projected_entry p ON p.fileid = l.fileid
 WHERE p.reason IS NULL AND p.itype = 32768
    ON CONFLICT (inumber, itype, ilocation) DO UPDATE SET istate = 1, ipriority = 10
 WHERE c.istate <> 1 OR c.ipriority <> 10

-- name: insert_checksums
INSERT INTO t_inodes_checksum (inumber, itype, isum)
SELECT p.inumber, c.itype, c.isum
  FROM projected_checksum c JOIN projected_entry p ON p.fileid = c.fileid
 WHERE p.reason IS NULL AND p.itype = 32768 AND c.reason IS NULL

-- name: delete_checksums
DELETE FROM t_inodes_checksum t USING projected_entry p
 WHERE p.reason IS NULL AND t.inumber = p.inumber
   AND NOT (p.itype = 32768
            AND EXISTS (SELECT FROM projected_checksum c
                         WHERE c.fileid = p.fileid AND c.itype = t.itype AND c.reason IS NULL))

-- name: upsert_checksums
INSERT INTO t_inodes_checksum AS t (inumber, itype, isum)
SELECT p.inumber, c.itype, c.isum
  FROM projected_checksum c JOIN projected_entry p ON p.fileid = c.fileid
 WHERE p.reason IS NULL AND p.itype = 32768 AND c.reason IS NULL
    ON CONFLICT (inumber, itype) DO UPDATE SET isum = excluded.isum WHERE t.isum <> excluded.isum

-- name: delete_targets
DELETE FROM t_inodes_data t USING projected_entry p
 WHERE p.reason IS NULL AND t.inumber = p.inumber AND p.itype <> 40960

-- name: upsert_targets
INSERT INTO t_inodes_data AS t (inumber, ifiledata)
SELECT inumber, target FROM projected_entry WHERE reason IS NULL AND itype = 40960
    ON CONFLICT (inumber) DO UPDATE SET ifiledata = excluded.ifiledata
 WHERE t.ifiledata IS DISTINCT FROM excluded.ifiledata

-- name: delete_acls
DELETE FROM t_acl t USING projected_entry p
 WHERE p.reason IS NULL AND t.inumber = p.inumber
   AND NOT EXISTS (SELECT FROM acl_ace a
                    WHERE a.acl = p.acl AND a.mode = p.mode AND a.ace_order = t.ace_order)

-- name: upsert_acls
INSERT INTO t_acl AS t (inumber, ace_order, rs_type, type, access_msk, who, who_id, flags)
SELECT p.inumber, a.ace_order, a.rs_type, a.type, a.access_msk, a.who, a.who_id, a.flags
  FROM projected_entry p JOIN acl_ace a ON a.acl = p.acl AND a.mode = p.mode
 WHERE p.reason IS NULL
    ON CONFLICT (inumber, ace_order) DO UPDATE
   SET rs_type = excluded.rs_type, type = excluded.type, access_msk = excluded.access_msk,
       who = excluded.who, who_id = excluded.who_id, flags = excluded.flags
 WHERE (t.rs_type, t.type, t.access_msk, t.who, t.who_id, t.flags)
       IS DISTINCT FROM (excluded.rs_type, excluded.type, excluded.access_msk, excluded.who,
                         excluded.who_id, excluded.flags)

-- name: orphan_descendants
INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail, parent, name)
SELECT pg_temp.fileid(g.inumber), 'entry', 'parent-absent', '',
       'parent fileid ' || pg_temp.fileid(d.iparent), pg_temp.fileid(d.iparent), convert_to(d.iname, 'UTF8')
  FROM gone g JOIN t_dirs d ON d.ichild = g.inumber
 WHERE NOT g.in_scope
    ON CONFLICT (fileid, scope, reason, subject) DO UPDATE
   SET last_seen = now(), detail = excluded.detail, parent = excluded.parent, name = excluded.name

-- name: orphan_descendants_facts
DELETE FROM dome_bridge.quarantine q USING gone g
 WHERE NOT g.in_scope AND q.fileid = pg_temp.fileid(g.inumber)
   AND NOT (q.scope = 'entry' AND q.reason = 'parent-absent')

-- name: delete_inodes
DELETE FROM t_inodes n USING gone g WHERE n.inumber = g.inumber

-- name: delete_trash
DELETE FROM t_locationinfo_trash t USING gone g
 WHERE t.ipnfsid = pg_temp.pnfsid(pg_temp.fileid(g.inumber))

-- name: delete_trash_of_living
-- Left by whoever deleted an entry that stands again: dCache's cleaner would remove its file.
DELETE FROM t_locationinfo_trash t USING projected_entry p
 WHERE p.reason IS NULL AND t.ipnfsid = pg_temp.pnfsid(p.fileid)

-- name: clear_quarantine
DELETE FROM dome_bridge.quarantine q USING scope s
 WHERE q.fileid = s.fileid
   AND NOT EXISTS (SELECT FROM reported r
                    WHERE r.fileid = s.fileid AND r.scope = q.scope AND r.reason = q.reason
                      AND left(r.subject, 200) = q.subject)

-- name: report_quarantine
INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail, parent, name)
SELECT DISTINCT ON (fileid, scope, reason, left(subject, 200)) fileid, scope, reason, left(subject, 200),
       detail, parent, name
  FROM reported ORDER BY fileid, scope, reason, left(subject, 200), subject
    ON CONFLICT (fileid, scope, reason, subject) DO UPDATE
   SET last_seen = now(), detail = excluded.detail, parent = excluded.parent, name = excluded.name

-- name: report_directories
-- The first copy reads replicas with files only: those of directories turn up without their entry.
INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail, parent, name)
SELECT f.fileid, 'fact', f.reason, left(f.subject, 200), f.detail, pg_temp.fileid(d.iparent),
       convert_to(d.iname, 'UTF8')
  FROM projected_fact f
  JOIN t_inodes n ON n.inumber = pg_temp.inumber(f.fileid) AND n.itype = 16384
  JOIN t_dirs d ON d.ichild = n.inumber
 WHERE NOT EXISTS (SELECT FROM projected_entry p WHERE p.fileid = f.fileid)
    ON CONFLICT (fileid, scope, reason, subject) DO NOTHING

-- name: clear_beyond
DELETE FROM dome_bridge.quarantine WHERE reason = 'id-out-of-range'

-- name: report_beyond
-- Ids that no 64-bit signed inumber can hold, and rows without one.
INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail, parent, name)
VALUES ($1::text::numeric, 'entry', 'id-out-of-range', $2, $3, $4, $5)

-- name: note_space_changes
-- What the space manager's database holds of these files may be out of date, once it holds anything.
INSERT INTO dome_bridge.space_change AS c (inumber, is_dir)
SELECT e.inumber, false
  FROM (SELECT pg_temp.inumber(fileid) FROM scope UNION SELECT inumber FROM gone) e (inumber)
 WHERE (SELECT is_noting FROM dome_bridge.space_model)
 ORDER BY e.inumber
    ON CONFLICT (inumber) DO UPDATE SET seq = excluded.seq

-- name: note_awakened
-- Entries left out only because of a directory that stands now, or of a name that was given up.
-- Noted in the transaction that changes that: whoever comes after a kill knows what is still to do.
INSERT INTO dome_bridge.awakened (fileid)
SELECT q.fileid::bigint FROM dome_bridge.quarantine q
  JOIN projected_entry p ON p.fileid = q.parent AND p.reason IS NULL AND p.itype = 16384
 WHERE q.scope = 'entry' AND q.reason IN ('parent-absent', 'duplicate-name', 'name-taken')
   AND NOT EXISTS (SELECT FROM scope s WHERE s.fileid = q.fileid)
UNION
SELECT q.fileid::bigint FROM dome_bridge.quarantine q
  JOIN name_change c ON c.change = -1 AND q.parent = pg_temp.fileid(c.iparent)
 WHERE q.scope = 'entry' AND q.reason = 'duplicate-name'
   AND NOT EXISTS (SELECT FROM scope s WHERE s.fileid = q.fileid)
    ON CONFLICT DO NOTHING

-- name: awakened
SELECT fileid FROM dome_bridge.awakened ORDER BY fileid LIMIT $1

-- name: awaken_claimants
-- At the end of the first copy: a rival may have gone before its range was read.
INSERT INTO dome_bridge.awakened (fileid) SELECT DISTINCT fileid FROM dome_bridge.claim ON CONFLICT DO NOTHING

-- name: settle_awakened
DELETE FROM dome_bridge.awakened a USING scope s WHERE a.fileid = s.fileid

-- name: clear_odd_hosts
DELETE FROM dome_bridge.odd_host o USING scope s WHERE o.fileid = s.fileid

-- name: note_odd_hosts
-- Files whose server is written otherwise in the sfn: a search by the server's name misses them.
INSERT INTO dome_bridge.odd_host (fileid)
SELECT DISTINCT fileid FROM projected_replica WHERE odd_host ON CONFLICT DO NOTHING

-- name: rivals
-- Files that until now claimed a replica path together with one of the scope.
SELECT DISTINCT o.fileid FROM scope s
  JOIN dome_bridge.claim c ON c.fileid = s.fileid
  JOIN dome_bridge.claim o ON o.sfn = c.sfn AND o.fileid <> c.fileid
 WHERE NOT EXISTS (SELECT FROM scope t WHERE t.fileid = o.fileid)

-- name: claimed
SELECT DISTINCT fileid FROM stage_replica WHERE claimed

-- name: clear_claims
DELETE FROM dome_bridge.claim c USING scope s WHERE c.fileid = s.fileid

-- name: note_claims
INSERT INTO dome_bridge.claim (fileid, sfn)
SELECT DISTINCT fileid, sha256(sfn) FROM stage_replica WHERE claimed ON CONFLICT DO NOTHING

-- name: advance_sequences
SELECT setval(pg_get_serial_sequence('t_inodes', 'inumber'), $1::bigint)
 WHERE (SELECT last_value FROM {inumber_sequence}) < $2::bigint

-- name: outcome
SELECT count(*) AS mirrored, max(inumber) AS highest FROM projected_entry WHERE reason IS NULL

-- name: recount_links
UPDATE t_inodes n SET inlink = w.inlink
  FROM projected_entry p
 CROSS JOIN LATERAL (
       SELECT CASE WHEN p.fileid = {root_fileid} THEN {root_link_base} ELSE 2 END
              + (SELECT count(*) FROM t_dirs d WHERE d.iparent = p.inumber AND
                   ({links_count_files}
                    OR (SELECT c.itype = 16384 FROM t_inodes c WHERE c.inumber = d.ichild))) AS inlink) w
 WHERE p.reason IS NULL AND p.itype = 16384 AND n.inumber = p.inumber AND n.inlink <> w.inlink
