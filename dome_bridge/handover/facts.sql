What the hand-over asks Chimera. Read only.

-- name: owners
SELECT iuid AS uid, igid AS gid, count(*) AS files FROM t_inodes
 WHERE itype = 32768 GROUP BY iuid, igid ORDER BY iuid, igid
