Where Chimera differs from a projection, for the fileids of the scope. Read only. What the
mirror does not follow is not compared: access time, creation time, generation.

-- name: missing
SELECT p.fileid, 'no inode' AS detail FROM projected_entry p
 WHERE p.reason IS NULL
   AND NOT EXISTS (SELECT FROM t_inodes n
                    WHERE n.inumber = p.inumber AND n.ipnfsid = pg_temp.pnfsid(p.fileid))

-- name: extra
SELECT s.fileid, 'inode without DPM entry' AS detail FROM scope s
 WHERE NOT EXISTS (SELECT FROM projected_entry p WHERE p.fileid = s.fileid AND p.reason IS NULL)
   AND EXISTS (SELECT FROM t_inodes n
                WHERE n.inumber = pg_temp.inumber(s.fileid) AND n.ipnfsid = pg_temp.pnfsid(s.fileid))

-- name: inodes
SELECT p.fileid,
       concat_ws(', ',
           CASE WHEN n.itype <> p.itype THEN 'type ' || n.itype || ' for ' || p.itype END,
           CASE WHEN n.imode <> p.imode THEN 'mode ' || n.imode || ' for ' || p.imode END,
           CASE WHEN n.iuid <> coalesce(p.uid, n.iuid) THEN 'uid ' || n.iuid || ' for ' || p.uid END,
           CASE WHEN n.igid <> coalesce(p.gid, n.igid) THEN 'gid ' || n.igid || ' for ' || p.gid END,
           CASE WHEN n.isize <> p.size THEN 'size ' || n.isize || ' for ' || p.size END,
           CASE WHEN n.iio <> p.iio THEN 'iio ' || n.iio || ' for ' || p.iio END,
           CASE WHEN n.ictime <> p.ctime THEN 'ctime ' || n.ictime || ' for ' || p.ctime END,
           CASE WHEN n.imtime <> p.mtime THEN 'mtime ' || n.imtime || ' for ' || p.mtime END,
           CASE WHEN n.iaccess_latency IS DISTINCT FROM w.al THEN 'access latency' END,
           CASE WHEN n.iretention_policy IS DISTINCT FROM w.rp THEN 'retention policy' END) AS detail
  FROM projected_entry p
  JOIN t_inodes n ON n.inumber = p.inumber
 CROSS JOIN LATERAL (SELECT CASE p.itype WHEN 32768 THEN 1 END AS al,
                            CASE p.itype WHEN 32768 THEN 2 END AS rp) w
 WHERE p.reason IS NULL
   AND ((n.imode, n.ictime, n.imtime, n.iuid, n.igid)
        IS DISTINCT FROM (p.imode, p.ctime, p.mtime, coalesce(p.uid, n.iuid), coalesce(p.gid, n.igid))
        OR p.fileid <> {root_fileid}
           AND (n.itype, n.isize, n.iio, n.iaccess_latency, n.iretention_policy)
               IS DISTINCT FROM (p.itype, p.size, p.iio, w.al, w.rp))

-- name: names
SELECT p.fileid, 'name ' || p.name || ' in ' || p.iparent AS detail FROM projected_entry p
 WHERE p.reason IS NULL AND p.fileid <> {root_fileid}
   AND (SELECT count(*) FILTER (WHERE d.iparent = p.iparent AND d.iname = p.name) = 1 AND count(*) = 1
          FROM t_dirs d WHERE d.ichild = p.inumber) IS NOT TRUE

-- name: links
SELECT p.fileid, 'inlink ' || n.inlink || ' for ' || w.inlink AS detail
  FROM projected_entry p
  JOIN t_inodes n ON n.inumber = p.inumber
 CROSS JOIN LATERAL (
       SELECT CASE WHEN p.itype <> 16384 THEN 1
                   ELSE CASE WHEN p.fileid = {root_fileid} THEN {root_link_base} ELSE 2 END
                        + (SELECT count(*) FROM t_dirs d WHERE d.iparent = p.inumber AND
                             ({links_count_files}
                              OR (SELECT c.itype = 16384 FROM t_inodes c WHERE c.inumber = d.ichild)))
              END AS inlink) w
 WHERE p.reason IS NULL AND n.inlink <> w.inlink

-- name: locations
SELECT p.fileid, 'lacks location ' || l.pool AS detail
  FROM projected_entry p JOIN projected_location l ON l.fileid = p.fileid
 WHERE p.reason IS NULL AND p.itype = 32768
   AND NOT EXISTS (SELECT FROM t_locationinfo c
                    WHERE c.inumber = p.inumber AND c.itype = 1 AND c.ilocation = l.pool
                      AND c.istate = 1 AND c.ipriority = 10)
UNION ALL
SELECT p.fileid, 'has location ' || c.ilocation
  FROM projected_entry p JOIN t_locationinfo c ON c.inumber = p.inumber
 WHERE p.reason IS NULL
   AND NOT (c.itype = 1 AND p.itype = 32768
            AND EXISTS (SELECT FROM projected_location l WHERE l.fileid = p.fileid AND l.pool = c.ilocation))

-- name: pool_links
SELECT v.fileid, 'lacks link in pool ' || v.pool || ' to ' || v.pfn AS detail FROM wanted_link v
 WHERE NOT EXISTS (SELECT FROM dome_bridge.link l
                    WHERE l.fileid = v.fileid AND l.pool = v.pool AND l.pfn = v.pfn AND l.size = v.size
                      AND l.withdrawn IS NULL)
UNION ALL
SELECT s.fileid, 'has link in pool ' || l.pool
  FROM scope s JOIN dome_bridge.link l ON l.fileid = s.fileid AND l.withdrawn IS NULL
 WHERE NOT EXISTS (SELECT FROM wanted_link v WHERE v.fileid = l.fileid AND v.pool = l.pool)

-- name: checksums
SELECT p.fileid, 'lacks checksum ' || c.name AS detail
  FROM projected_entry p JOIN projected_checksum c ON c.fileid = p.fileid AND c.reason IS NULL
 WHERE p.reason IS NULL AND p.itype = 32768
   AND NOT EXISTS (SELECT FROM t_inodes_checksum t
                    WHERE t.inumber = p.inumber AND t.itype = c.itype AND t.isum = c.isum)
UNION ALL
SELECT p.fileid, 'has checksum of type ' || t.itype
  FROM projected_entry p JOIN t_inodes_checksum t ON t.inumber = p.inumber
 WHERE p.reason IS NULL
   AND NOT (p.itype = 32768 AND EXISTS (SELECT FROM projected_checksum c
        WHERE c.fileid = p.fileid AND c.itype = t.itype AND c.reason IS NULL))

-- name: targets
SELECT p.fileid, 'link target' AS detail
  FROM projected_entry p LEFT JOIN t_inodes_data t ON t.inumber = p.inumber
 WHERE p.reason IS NULL AND t.ifiledata IS DISTINCT FROM p.target
   AND (p.itype = 40960 OR t.inumber IS NOT NULL)

-- name: acls
SELECT p.fileid, 'lacks ace ' || a.ace_order AS detail
  FROM projected_entry p JOIN acl_ace a ON a.acl = p.acl AND a.mode = p.mode
 WHERE p.reason IS NULL
   AND NOT EXISTS (SELECT FROM t_acl t
                    WHERE t.inumber = p.inumber AND t.ace_order = a.ace_order
                      AND (t.rs_type, t.type, t.access_msk, t.who, t.who_id, t.flags)
                          IS NOT DISTINCT FROM (a.rs_type, a.type, a.access_msk, a.who, a.who_id, a.flags))
UNION ALL
SELECT p.fileid, 'has ace ' || t.ace_order
  FROM projected_entry p JOIN t_acl t ON t.inumber = p.inumber
 WHERE p.reason IS NULL
   AND NOT EXISTS (SELECT FROM acl_ace a
                    WHERE a.acl = p.acl AND a.mode = p.mode AND a.ace_order = t.ace_order)

-- name: tags
WITH wanted AS (
    SELECT p.fileid, p.inumber, u.itagname, coalesce(o.itagid, t.itagid) AS itagid,
           (o.itagid IS NOT NULL)::integer AS isorign
      FROM projected_entry p
     CROSS JOIN LATERAL (
           SELECT itagname FROM t_tags WHERE inumber = p.iparent AND p.fileid <> {root_fileid}
           UNION SELECT tag FROM dome_bridge.tag_origin WHERE inumber = p.inumber) u (itagname)
      LEFT JOIN dome_bridge.tag_origin o ON o.inumber = p.inumber AND o.tag = u.itagname
      LEFT JOIN t_tags t ON t.inumber = p.iparent AND t.itagname = u.itagname AND p.fileid <> {root_fileid}
     WHERE p.reason IS NULL AND p.itype = 16384
)
SELECT w.fileid, 'lacks tag ' || w.itagname AS detail FROM wanted w
 WHERE NOT EXISTS (SELECT FROM t_tags t
                    WHERE t.inumber = w.inumber AND t.itagname = w.itagname AND t.itagid = w.itagid
                      AND t.isorign = w.isorign)
UNION ALL
SELECT p.fileid, 'has tag ' || t.itagname
  FROM projected_entry p JOIN t_tags t ON t.inumber = p.inumber
 WHERE p.reason IS NULL
   AND NOT EXISTS (SELECT FROM wanted w WHERE w.fileid = p.fileid AND w.itagname = t.itagname)
UNION ALL
SELECT p.fileid, 'content of tag ' || o.tag
  FROM projected_entry p
  JOIN dome_bridge.tag_origin o ON o.inumber = p.inumber
  JOIN t_tags_inodes c ON c.itagid = o.itagid
 WHERE p.reason IS NULL AND (convert_to(o.value, 'UTF8') <> c.ivalue OR c.isize <> octet_length(c.ivalue)
        OR c.inlink <> (SELECT count(*) FROM t_tags t WHERE t.itagid = o.itagid))

-- name: quarantined
SELECT r.fileid, 'quarantine lacks ' || r.reason AS detail FROM reported r
 WHERE NOT EXISTS (SELECT FROM dome_bridge.quarantine q
                    WHERE q.fileid = r.fileid AND q.scope = r.scope AND q.reason = r.reason
                      AND q.subject = left(r.subject, 200))
UNION ALL
SELECT s.fileid, 'quarantine has ' || q.reason
  FROM scope s JOIN dome_bridge.quarantine q ON q.fileid = s.fileid
 WHERE NOT EXISTS (SELECT FROM reported r
                    WHERE r.fileid = s.fileid AND r.scope = q.scope AND r.reason = q.reason
                      AND left(r.subject, 200) = q.subject)
