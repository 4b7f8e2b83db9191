Counts files and bytes per pool and storage group, of what Chimera has and of what DPM says. Read
only. $1 is the offset of the inumbers; the tags of a directory tell the storage group of its files.

-- name: quarantined_range
SELECT DISTINCT fileid::bigint AS fileid FROM dome_bridge.quarantine WHERE fileid BETWEEN $1 AND $2

-- name: quarantined_ids
SELECT DISTINCT fileid::bigint AS fileid FROM dome_bridge.quarantine WHERE fileid = ANY($1::bigint[])

-- name: entries_range
SELECT (SELECT count(*) FROM t_inodes n
         WHERE n.inumber BETWEEN $2::bigint + $1::bigint AND $3::bigint + $1::bigint
           AND left(n.ipnfsid, 20) = '0000' || $5::text AND NOT n.inumber - $1 = ANY($4::bigint[]))
       + (SELECT count(*) FROM dome_bridge.quarantine
           WHERE scope = 'entry' AND fileid BETWEEN $2 AND $3 AND NOT fileid = ANY($4::bigint[]))

-- name: entries_ids
SELECT (SELECT count(*) FROM t_inodes n
         WHERE n.inumber = ANY(SELECT f + $1::bigint FROM unnest($2::bigint[]) AS f)
           AND left(n.ipnfsid, 20) = '0000' || $3::text)
       + (SELECT count(*) FROM dome_bridge.quarantine
           WHERE scope = 'entry' AND fileid = ANY($2::bigint[]))

-- name: places_range
SELECT l.ilocation AS pool, g.name AS token, count(*) AS copies, sum(n.isize)::text AS bytes
  FROM t_inodes n
  JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
  JOIN t_dirs d ON d.ichild = n.inumber
 CROSS JOIN LATERAL ({token_of_parent}) g
 WHERE n.inumber BETWEEN $2::bigint + $1::bigint AND $3::bigint + $1::bigint AND n.itype = 32768
   AND left(n.ipnfsid, 20) = '0000' || $5::text AND NOT n.inumber - $1 = ANY($4::bigint[])
 GROUP BY 1, 2

-- name: places_ids
SELECT l.ilocation AS pool, g.name AS token, count(*) AS copies, sum(n.isize)::text AS bytes
  FROM t_inodes n
  JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
  JOIN t_dirs d ON d.ichild = n.inumber
 CROSS JOIN LATERAL ({token_of_parent}) g
 WHERE n.inumber = ANY(SELECT f + $1::bigint FROM unnest($2::bigint[]) AS f) AND n.itype = 32768
   AND left(n.ipnfsid, 20) = '0000' || $3::text
 GROUP BY 1, 2

-- name: grouped
-- What DPM says, directory by directory, summed up by the same storage groups.
SELECT s.pool, g.name AS token, sum(s.copies)::bigint AS copies, sum(s.bytes)::text AS bytes
  FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::numeric[]) AS s (iparent, pool, copies, bytes)
  JOIN LATERAL (SELECT s.iparent) AS d (iparent) ON true
 CROSS JOIN LATERAL ({token_of_parent}) g
 GROUP BY 1, 2

-- name: token_of_parent
SELECT coalesce((SELECT convert_from(c.ivalue, 'UTF8') FROM t_tags t JOIN t_tags_inodes c USING (itagid)
                  WHERE t.inumber = d.iparent AND t.itagname = 'OSMTemplate'), '')
       || ':' ||
       coalesce((SELECT convert_from(c.ivalue, 'UTF8') FROM t_tags t JOIN t_tags_inodes c USING (itagid)
                  WHERE t.inumber = d.iparent AND t.itagname = 'sGroup'), '') AS name
