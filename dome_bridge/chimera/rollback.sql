What dCache has written since the commit, told by the data. Read only. dCache numbers its inodes from
a sequence, raises the generation of every inode that it changes, and leaves a trace of every deletion.

-- name: hold_still
-- Until the transaction ends nobody writes: what was looked at is still so when the decision is recorded.
LOCK TABLE t_inodes, t_dirs, t_locationinfo, t_tags IN SHARE MODE

-- name: made
SELECT n.ipnfsid, n.itype, n.isize, coalesce(inumber2path(n.inumber), '') AS path,
       coalesce(string_agg(l.ilocation, ',' ORDER BY l.ilocation), '') AS pools
  FROM t_inodes n LEFT JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
 WHERE n.inumber > $1 GROUP BY n.inumber, n.ipnfsid, n.itype, n.isize ORDER BY n.inumber

-- name: changed
SELECT n.ipnfsid, n.itype, n.isize, coalesce(inumber2path(n.inumber), '') AS path, '' AS pools
  FROM t_inodes n
 WHERE (n.igeneration <> 0 AND left(n.ipnfsid, 20) = '0000' || $2::text)
    OR (n.ipnfsid = repeat('0', 36) AND n.igeneration <> $3)
 ORDER BY n.inumber LIMIT $1

-- name: located
SELECT n.ipnfsid, n.itype, n.isize, coalesce(inumber2path(n.inumber), '') AS path, l.ilocation AS pools
  FROM t_locationinfo l JOIN t_inodes n USING (inumber)
 WHERE l.itype = 1 AND n.inumber <= $2 AND l.ictime <> n.imtime
   AND l.ictime > (SELECT ended_at AT TIME ZONE $3 FROM dome_bridge.cutover WHERE id = $4)
   -- dCache writes the time that it is; a later one is that of a file which DPM had dated ahead.
   AND l.ictime <= (now() + interval '1 minute') AT TIME ZONE $3
 ORDER BY n.inumber LIMIT $1

-- name: named
-- Second names of entries, and names that were put where we put none.
SELECT n.ipnfsid, n.itype, n.isize, inumber2path(d.iparent) || '/' || d.iname AS path, '' AS pools
  FROM t_dirs d JOIN t_inodes n ON n.inumber = d.ichild
 WHERE n.inumber <= $2 AND (SELECT count(*) FROM t_dirs o WHERE o.ichild = d.ichild) > 1
 ORDER BY n.inumber LIMIT $1

-- name: deleted
SELECT DISTINCT ipnfsid, 0 AS itype, 0::bigint AS isize, '' AS path, '' AS pools
  FROM t_locationinfo_trash ORDER BY ipnfsid LIMIT $1

-- name: tagged
SELECT n.ipnfsid, n.itype, n.isize, coalesce(inumber2path(n.inumber), '') AS path, '' AS pools
  FROM t_tags t JOIN t_inodes n USING (inumber) WHERE t.itagid > $2 ORDER BY n.inumber LIMIT $1
