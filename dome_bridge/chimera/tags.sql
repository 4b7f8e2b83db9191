Directory tags. dCache looks at a directory's own tags only, so each directory has a row
for each tag that holds there; rows that were not set in it share the content of the
origin above. Origins are the root, each VO's directory /dpm/<domain>/home/<vo>, and the
directory of each quotatoken.

OFFSET 0 keeps the look-up of a directory's names by index: how many rows a recursion will have,
the planner can only guess, and a wrong guess would read all of t_dirs at each level.

-- name: token_dirs
-- The directory of each quotatoken; of several in one directory the first by its path.
INSERT INTO token_dir (inumber, s_token, name, vo)
WITH RECURSIVE token AS (
    SELECT s_token, rtrim(t.path, '/') AS path, string_to_array(trim(BOTH '/' FROM t.path), '/') AS parts,
           coalesce(nullif(regexp_replace(encode(t.u_token, 'escape'), '[^A-Za-z0-9_.-]', '_', 'g'), ''),
                    'default') AS name
      FROM (SELECT s_token, pg_temp.utf8(path) AS path, u_token FROM dome_bridge.dpm_token) t
     WHERE t.path LIKE '/%'
), walk (s_token, path, parts, name, depth, inumber) AS (
    SELECT s_token, path, array_remove(parts, ''), name, 0, {root_inumber}::bigint FROM token
    UNION ALL
    SELECT w.s_token, w.path, w.parts, w.name, w.depth + 1, d.ichild
      FROM walk w JOIN t_dirs d ON d.iparent = w.inumber AND d.iname = w.parts[w.depth + 1]
      JOIN t_inodes n ON n.inumber = d.ichild AND n.itype = 16384
     WHERE w.depth < cardinality(w.parts)
)
SELECT DISTINCT ON (inumber) inumber, s_token, name,
       CASE WHEN depth >= 4 AND parts[1] = 'dpm' AND parts[3] = 'home' THEN parts[4] ELSE 'dpm' END
  FROM walk WHERE depth = cardinality(parts) ORDER BY inumber, path COLLATE "C", s_token
ON CONFLICT DO NOTHING

-- name: allot_reservations
-- Ids for the space manager. A token keeps its own for good: tags and files refer to it.
INSERT INTO dome_bridge.space_reservation (s_token)
SELECT d.s_token FROM token_dir d
 WHERE (SELECT reservations FROM dome_bridge.space_model) AND d.inumber <> {root_inumber}
   AND EXISTS (SELECT FROM dome_bridge.dpm_token t WHERE t.s_token = d.s_token AND t.poolname <> '')
   AND NOT EXISTS (SELECT FROM dome_bridge.space_reservation r WHERE r.s_token = d.s_token)
 ORDER BY d.inumber

-- name: wanted_origins
INSERT INTO wanted_origin (inumber, tag, value)
WITH vo_dir AS (
    SELECT d4.ichild AS inumber, d4.iname AS vo
      FROM t_dirs d1
      JOIN t_dirs d2 ON d2.iparent = d1.ichild
      JOIN t_dirs d3 ON d3.iparent = d2.ichild AND d3.iname = 'home'
      JOIN t_dirs d4 ON d4.iparent = d3.ichild
      JOIN t_inodes n ON n.inumber = d4.ichild AND n.itype = 16384
     WHERE d1.iparent = {root_inumber} AND d1.iname = 'dpm'
), origin AS (
    SELECT inumber, vo, name FROM token_dir
    UNION ALL
    SELECT inumber, vo, 'default' FROM vo_dir v
     WHERE NOT EXISTS (SELECT FROM token_dir t WHERE t.inumber = v.inumber)
)
SELECT inumber, tag, value FROM (
    SELECT o.inumber, t.tag, t.value
      FROM origin o
     CROSS JOIN LATERAL (VALUES
           ('OSMTemplate', 'StoreName ' || regexp_replace(o.vo, '[^A-Za-z0-9_.-]', '_', 'g')),
           ('sGroup', o.name), ('AccessLatency', 'ONLINE'), ('RetentionPolicy', 'REPLICA')) t (tag, value)
    UNION ALL
    SELECT {root_inumber}, t.tag, t.value
      FROM (VALUES ('AccessLatency', 'ONLINE'), ('RetentionPolicy', 'REPLICA')) t (tag, value)
    UNION ALL
    SELECT d.inumber, 'WriteToken', r.id::text
      FROM token_dir d JOIN dome_bridge.space_reservation r ON r.s_token = d.s_token
     WHERE (SELECT reservations FROM dome_bridge.space_model) AND d.inumber <> {root_inumber}
) w
ON CONFLICT DO NOTHING

-- name: origin_changes
-- Where an origin begins or ends, everything below is tagged anew.
INSERT INTO retag (inumber)
SELECT inumber FROM wanted_origin w
 WHERE NOT EXISTS (SELECT FROM dome_bridge.tag_origin o WHERE o.inumber = w.inumber AND o.tag = w.tag)
UNION
SELECT inumber FROM dome_bridge.tag_origin o
 WHERE NOT EXISTS (SELECT FROM wanted_origin w WHERE o.inumber = w.inumber AND o.tag = w.tag)
    ON CONFLICT DO NOTHING

-- name: note_space_values
-- A directory that goes from one token to another keeps its tag; only the content changes.
INSERT INTO dome_bridge.space_change AS c (inumber, is_dir)
SELECT t.inumber, true
  FROM wanted_origin w
  JOIN dome_bridge.tag_origin o ON o.inumber = w.inumber AND o.tag = w.tag AND o.value <> w.value
  JOIN t_tags t ON t.itagid = o.itagid
 WHERE w.tag = 'WriteToken' AND (SELECT is_noting FROM dome_bridge.space_model)
 ORDER BY t.inumber
    ON CONFLICT (inumber) DO UPDATE SET is_dir = true, seq = excluded.seq

-- name: change_origin_values
WITH changed AS (
    UPDATE dome_bridge.tag_origin o SET value = w.value FROM wanted_origin w
     WHERE w.inumber = o.inumber AND w.tag = o.tag AND w.value <> o.value
    RETURNING o.itagid, o.value
)
UPDATE t_tags_inodes t
   SET ivalue = convert_to(c.value, 'UTF8'), isize = octet_length(c.value),
       ictime = now() AT TIME ZONE {timezone}, imtime = now() AT TIME ZONE {timezone}
  FROM changed c WHERE t.itagid = c.itagid

-- name: drop_origins
DELETE FROM dome_bridge.tag_origin o
 WHERE NOT EXISTS (SELECT FROM wanted_origin w WHERE w.inumber = o.inumber AND w.tag = o.tag)
RETURNING itagid

-- name: make_origins
WITH made AS (
    SELECT inumber, tag, value, nextval(pg_get_serial_sequence('t_tags_inodes', 'itagid')) AS itagid
      FROM wanted_origin w
     WHERE NOT EXISTS (SELECT FROM dome_bridge.tag_origin o WHERE o.inumber = w.inumber AND o.tag = w.tag)
), noted AS (
    INSERT INTO dome_bridge.tag_origin (inumber, tag, itagid, value)
    SELECT inumber, tag, itagid, value FROM made
)
INSERT INTO t_tags_inodes (itagid, imode, inlink, iuid, igid, isize, ictime, iatime, imtime, ivalue)
SELECT itagid, 33188, 0, 0, 0, octet_length(value), now() AT TIME ZONE {timezone},
       now() AT TIME ZONE {timezone}, now() AT TIME ZONE {timezone}, convert_to(value, 'UTF8')
  FROM made

-- name: retag_linked
INSERT INTO retag (inumber)
SELECT ichild FROM name_change WHERE change = 1 AND is_dir ON CONFLICT DO NOTHING

-- name: retag_below
-- A directory that moved, or whose origin changed, takes its whole tree along.
INSERT INTO retag (inumber)
WITH RECURSIVE down (inumber) AS (
    SELECT inumber FROM retag
    UNION
    SELECT d.ichild FROM down w
     CROSS JOIN LATERAL (SELECT d.ichild
                           FROM t_dirs d JOIN t_inodes n ON n.inumber = d.ichild AND n.itype = 16384
                          WHERE d.iparent = w.inumber OFFSET 0) d
)
SELECT inumber FROM down ON CONFLICT DO NOTHING

-- name: retag_ours
DELETE FROM retag r
 WHERE EXISTS (SELECT FROM gone g WHERE g.inumber = r.inumber)
    OR NOT EXISTS (SELECT FROM t_inodes n
                    WHERE n.inumber = r.inumber AND n.itype = 16384
                      AND n.ipnfsid = pg_temp.pnfsid(pg_temp.fileid(n.inumber)))

-- name: wanted_tags
INSERT INTO wanted_tag (inumber, tag, itagid, isorign)
WITH RECURSIVE own AS MATERIALIZED (
    SELECT inumber, max(itagid) FILTER (WHERE tag = 'OSMTemplate') AS store,
           max(itagid) FILTER (WHERE tag = 'sGroup') AS grp,
           max(itagid) FILTER (WHERE tag = 'AccessLatency') AS al,
           max(itagid) FILTER (WHERE tag = 'RetentionPolicy') AS rp,
           max(itagid) FILTER (WHERE tag = 'WriteToken') AS token
      FROM dome_bridge.tag_origin GROUP BY inumber
), above AS MATERIALIZED (
    SELECT DISTINCT d.iparent FROM retag r
     CROSS JOIN LATERAL (SELECT d.iparent FROM t_dirs d WHERE d.ichild = r.inumber OFFSET 0) d
     WHERE NOT EXISTS (SELECT FROM retag p WHERE p.inumber = d.iparent)
), inherited AS MATERIALIZED (
    SELECT a.iparent, max(t.itagid) FILTER (WHERE t.itagname = 'OSMTemplate') AS store,
           max(t.itagid) FILTER (WHERE t.itagname = 'sGroup') AS grp,
           max(t.itagid) FILTER (WHERE t.itagname = 'AccessLatency') AS al,
           max(t.itagid) FILTER (WHERE t.itagname = 'RetentionPolicy') AS rp,
           max(t.itagid) FILTER (WHERE t.itagname = 'WriteToken') AS token
      FROM above a JOIN t_tags t ON t.inumber = a.iparent GROUP BY a.iparent
), down (inumber, store, grp, al, rp, token) AS (
    SELECT r.inumber, coalesce(o.store, i.store), coalesce(o.grp, i.grp), coalesce(o.al, i.al),
           coalesce(o.rp, i.rp), coalesce(o.token, i.token)
      FROM retag r
      LEFT JOIN LATERAL (SELECT d.iparent FROM t_dirs d WHERE d.ichild = r.inumber OFFSET 0) d ON true
      LEFT JOIN inherited i ON i.iparent = d.iparent
      LEFT JOIN own o ON o.inumber = r.inumber
     WHERE NOT EXISTS (SELECT FROM retag p WHERE p.inumber = d.iparent)
    UNION ALL
    SELECT d.ichild, coalesce(o.store, w.store), coalesce(o.grp, w.grp), coalesce(o.al, w.al),
           coalesce(o.rp, w.rp), coalesce(o.token, w.token)
      FROM down w
     CROSS JOIN LATERAL (SELECT d.ichild FROM t_dirs d WHERE d.iparent = w.inumber OFFSET 0) d
      JOIN retag r ON r.inumber = d.ichild
      LEFT JOIN own o ON o.inumber = d.ichild
)
SELECT w.inumber, t.tag, t.itagid,
       EXISTS (SELECT FROM dome_bridge.tag_origin o WHERE o.inumber = w.inumber AND o.tag = t.tag)::integer
  FROM down w
 CROSS JOIN LATERAL (VALUES ('OSMTemplate', w.store), ('sGroup', w.grp), ('AccessLatency', w.al),
                            ('RetentionPolicy', w.rp), ('WriteToken', w.token)) t (tag, itagid)
 WHERE t.itagid IS NOT NULL

-- name: uses_before
INSERT INTO tag_use (itagid, change)
SELECT t.itagid, -count(*) FROM t_tags t
 WHERE t.inumber IN (SELECT inumber FROM retag
                     UNION SELECT inumber FROM gone WHERE is_dir
                     UNION SELECT ichild FROM name_change WHERE is_dir AND change = -1)
 GROUP BY t.itagid

-- name: delete_tags
DELETE FROM t_tags t
 WHERE t.inumber IN (SELECT inumber FROM retag
                     UNION SELECT ichild FROM name_change WHERE is_dir AND change = -1)
   AND NOT EXISTS (SELECT FROM wanted_tag w WHERE w.inumber = t.inumber AND w.tag = t.itagname)

-- name: delete_gone_tags
DELETE FROM t_tags t USING gone g WHERE t.inumber = g.inumber

-- name: upsert_tags
INSERT INTO t_tags AS t (inumber, itagid, isorign, itagname)
SELECT inumber, itagid, isorign, tag FROM wanted_tag
    ON CONFLICT (inumber, itagname) DO UPDATE SET itagid = excluded.itagid, isorign = excluded.isorign
 WHERE (t.itagid, t.isorign) IS DISTINCT FROM (excluded.itagid, excluded.isorign)

-- name: note_space_directories
-- What the space manager's database holds of the files in these directories may be out of date.
INSERT INTO dome_bridge.space_change AS c (inumber, is_dir)
SELECT inumber, true FROM retag WHERE (SELECT is_noting FROM dome_bridge.space_model) ORDER BY inumber
    ON CONFLICT (inumber) DO UPDATE SET is_dir = true, seq = excluded.seq

-- name: uses_after
INSERT INTO tag_use (itagid, change)
SELECT t.itagid, count(*) FROM t_tags t WHERE t.inumber IN (SELECT inumber FROM retag) GROUP BY t.itagid

-- name: note_uses
UPDATE t_tags_inodes t SET inlink = t.inlink + u.change
  FROM (SELECT itagid, sum(change) AS change FROM tag_use GROUP BY itagid HAVING sum(change) <> 0) u
 WHERE t.itagid = u.itagid

-- name: drop_contents
DELETE FROM t_tags_inodes t
 WHERE t.itagid = ANY($1) AND NOT EXISTS (SELECT FROM t_tags u WHERE u.itagid = t.itagid)

-- name: directories_changed
SELECT EXISTS (SELECT FROM name_change WHERE is_dir) OR EXISTS (SELECT FROM gone WHERE is_dir)

-- name: retag_scope
INSERT INTO retag (inumber)
SELECT inumber FROM projected_entry WHERE reason IS NULL AND itype = 16384 ON CONFLICT DO NOTHING

-- name: restore_contents
UPDATE t_tags_inodes c SET ivalue = convert_to(o.value, 'UTF8'), isize = octet_length(o.value)
  FROM dome_bridge.tag_origin o
 WHERE o.itagid = c.itagid
   AND (c.ivalue IS DISTINCT FROM convert_to(o.value, 'UTF8') OR c.isize <> octet_length(o.value))

-- name: recount_uses
UPDATE t_tags_inodes c SET inlink = u.uses
  FROM (SELECT o.itagid, (SELECT count(*) FROM t_tags t WHERE t.itagid = o.itagid) AS uses
          FROM dome_bridge.tag_origin o) u
 WHERE u.itagid = c.itagid AND c.inlink <> u.uses
