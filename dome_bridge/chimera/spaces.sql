What of the mirror's state and of Chimera becomes reservations, their files, and quotas of groups.

`space_change` names the entries whose files in the space manager's database may be out of date; the mirror
notes them in the transactions that change them, from the beginning of the first load on. A load looks at
Chimera while no batch is under way, so it sees a change exactly if it sees its note.

-- name: model
SELECT reservations, is_noting, loaded_at FROM dome_bridge.space_model

-- name: choose_model
UPDATE dome_bridge.space_model SET reservations = $1, is_noting = is_noting AND $1, loaded_at = NULL

-- name: begin_noting
UPDATE dome_bridge.space_model SET is_noting = true, loaded_at = NULL

-- name: forget_all_changes
DELETE FROM dome_bridge.space_change

-- name: last_change
SELECT coalesce(max(seq), 0) FROM dome_bridge.space_change

-- name: forget_changes
DELETE FROM dome_bridge.space_change WHERE seq <= $1

-- name: count_changes
SELECT count(*) FROM dome_bridge.space_change

-- name: note_loaded
UPDATE dome_bridge.space_model SET loaded_at = now()

-- name: note_used
UPDATE dome_bridge.space_reservation r
   SET loaded_used = (SELECT u.used FROM unnest($1::bigint[], $2::bigint[]) AS u (id, used) WHERE u.id = r.id)

-- name: allotted
SELECT id, s_token, created_ms, loaded_used FROM dome_bridge.space_reservation ORDER BY id

-- name: tagged
-- Reservations whose tags stand.
SELECT value::bigint AS id FROM dome_bridge.tag_origin WHERE tag = 'WriteToken'

-- name: origins
-- Directories of tokens and of VOs.
SELECT inumber2path(inumber) AS path FROM dome_bridge.tag_origin WHERE tag = 'sGroup'

-- name: tokens
SELECT s_token, u_token, poolname, path, t_space, groups FROM dome_bridge.dpm_token

-- name: groups
SELECT gid, groupname FROM dome_bridge.dpm_group

-- name: filesystems
SELECT poolname, server, fs, status, dcache_pool FROM dome_bridge.dpm_fs

-- name: free
SELECT pool, free FROM dome_bridge.pool_space

-- name: link_groups
SELECT name FROM dome_bridge.space_link_group

-- name: note_link_group
INSERT INTO dome_bridge.space_link_group (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: settings
SET LOCAL work_mem = '256MB';
SET LOCAL jit = off

-- name: all_files
SELECT v.owner, v.id, n.isize, floor(extract(epoch FROM n.icrtime AT TIME ZONE {timezone}) * 1000)::bigint,
       n.ipnfsid, 2
  FROM unnest($1::bigint[], $2::text[]) AS v (id, owner)
  JOIN dome_bridge.tag_origin o ON o.tag = 'WriteToken' AND o.value = v.id::text
  JOIN t_tags t ON t.itagid = o.itagid
  JOIN t_dirs d ON d.iparent = t.inumber
  JOIN t_inodes n ON n.inumber = d.ichild AND n.itype = 32768 AND left(n.ipnfsid, 20) = '0000{instance_id}'

-- name: changed_files
-- Without a reservation: there is no such file any more, or no token covers it.
WITH changed AS MATERIALIZED (
    SELECT inumber FROM dome_bridge.space_change WHERE inumber > {offset} AND inumber <> {root_inumber}
    UNION
    SELECT d.ichild FROM dome_bridge.space_change c JOIN t_dirs d ON d.iparent = c.inumber
     WHERE c.is_dir AND d.ichild > {offset}
)
SELECT v.owner, v.id, n.isize, floor(extract(epoch FROM n.icrtime AT TIME ZONE {timezone}) * 1000)::bigint,
       '0000{instance_id}' || upper(lpad(to_hex(c.inumber - {offset}), 16, '0')), 2
  FROM changed c
  LEFT JOIN t_inodes n ON n.inumber = c.inumber AND n.itype = 32768
  LEFT JOIN t_dirs d ON d.ichild = n.inumber
  LEFT JOIN t_tags t ON t.inumber = d.iparent AND t.itagname = 'WriteToken'
  LEFT JOIN dome_bridge.tag_origin o ON o.itagid = t.itagid AND o.tag = 'WriteToken'
  LEFT JOIN unnest($1::bigint[], $2::text[]) AS v (id, owner) ON v.id::text = o.value

-- name: used
SELECT o.value::bigint AS id, count(*) AS files, sum(n.isize) AS used
  FROM dome_bridge.tag_origin o
  JOIN t_tags t ON t.itagid = o.itagid
  JOIN t_dirs d ON d.iparent = t.inumber
  JOIN t_inodes n ON n.inumber = d.ichild AND n.itype = 32768 AND left(n.ipnfsid, 20) = '0000{instance_id}'
 WHERE o.tag = 'WriteToken'
 GROUP BY o.value

-- name: used_by_groups
-- By owning group and the directory where the storage group of a file begins; NULL above all of them.
SELECT s.igid AS gid, inumber2path(s.origin) AS path, s.files, s.used
  FROM (SELECT n.igid, o.inumber AS origin, count(*) AS files, sum(n.isize) AS used
          FROM t_inodes n
          JOIN t_dirs d ON d.ichild = n.inumber
          LEFT JOIN t_tags t ON t.inumber = d.iparent AND t.itagname = 'sGroup'
          LEFT JOIN dome_bridge.tag_origin o ON o.itagid = t.itagid AND o.tag = 'sGroup'
         WHERE n.itype = 32768
         GROUP BY n.igid, o.inumber) s

-- name: used_by_places
-- By copies, as DPM counts.
SELECT inumber2path(s.origin) AS path, s.pool, s.bytes
  FROM (SELECT o.inumber AS origin, l.ilocation AS pool, sum(n.isize) AS bytes
          FROM t_inodes n
          JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
          JOIN t_dirs d ON d.ichild = n.inumber
          JOIN t_tags t ON t.inumber = d.iparent AND t.itagname = 'sGroup'
          JOIN dome_bridge.tag_origin o ON o.itagid = t.itagid AND o.tag = 'sGroup'
         WHERE n.itype = 32768
         GROUP BY o.inumber, l.ilocation) s

-- name: quotas
SELECT q.igid AS gid, q.ireplica_limit AS quota, o.igid IS NOT NULL AS ours
  FROM t_group_quota q LEFT JOIN dome_bridge.group_quota o ON o.igid = q.igid

-- name: forget_quotas
DELETE FROM t_group_quota q USING dome_bridge.group_quota o
 WHERE o.igid = q.igid AND NOT q.igid = ANY($1::integer[])

-- name: forget_noted_quotas
DELETE FROM dome_bridge.group_quota WHERE NOT igid = ANY($1::integer[])

-- name: note_quota
INSERT INTO dome_bridge.group_quota (igid) VALUES ($1) ON CONFLICT DO NOTHING

-- name: put_quota
INSERT INTO t_group_quota (igid, icustodial_used, icustodial_limit, ioutput_used, ioutput_limit,
    ireplica_used, ireplica_limit)
VALUES ($1, 0, NULL, 0, NULL, $2, $3)
    ON CONFLICT (igid) DO UPDATE SET ireplica_used = excluded.ireplica_used, ireplica_limit = excluded.ireplica_limit
