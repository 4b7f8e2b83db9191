The record of cutovers, what their gates look at, and what their steps do in Chimera. Each state is
written before what it announces is done.

-- name: lock
SELECT pg_try_advisory_lock($1, $2)

-- name: open
SELECT id, state, nonce, fenced_at, skipped FROM dome_bridge.cutover
 WHERE state NOT IN ('committed', 'aborted', 'returned') ORDER BY id DESC LIMIT 1

-- name: fence_age
SELECT state, extract(epoch FROM clock_timestamp() - fenced_at)::double precision AS age
  FROM dome_bridge.cutover WHERE fenced_at IS NOT NULL AND ended_at IS NULL ORDER BY id DESC LIMIT 1

-- name: last
SELECT id, state, nonce, started_at, fenced_at, ended_at, reason, skipped, gates, tally, uploads, artifacts,
       baseline,
       coalesce(extract(epoch FROM ended_at - fenced_at), 0)::double precision AS fence_seconds
  FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1

-- name: begin
INSERT INTO dome_bridge.cutover (state, nonce, gates, skipped)
VALUES ($1, $2, $3::text::jsonb, $4) RETURNING id

-- name: set_gates
UPDATE dome_bridge.cutover SET gates = $2::text::jsonb, skipped = $3 WHERE id = $1

-- name: set_state
UPDATE dome_bridge.cutover
   SET state = $2, reason = CASE WHEN $3 = '' THEN reason ELSE $3 END,
       fenced_at = CASE WHEN $2 = 'fencing' THEN coalesce(fenced_at, clock_timestamp()) ELSE fenced_at END,
       ended_at = CASE WHEN $2 IN ('committed', 'aborted') THEN clock_timestamp() ELSE ended_at END
 WHERE id = $1 AND state = $4

-- name: step
INSERT INTO dome_bridge.cutover_step (cutover, name, started_at, seconds, detail)
VALUES ($1, $2, clock_timestamp(), $3, $4)
ON CONFLICT (cutover, name) DO UPDATE
   SET seconds = dome_bridge.cutover_step.seconds + excluded.seconds, detail = excluded.detail

-- name: steps
SELECT name, seconds, detail FROM dome_bridge.cutover_step WHERE cutover = $1 ORDER BY started_at

-- name: set_tally
UPDATE dome_bridge.cutover SET tally = $2::text::jsonb WHERE id = $1

-- name: set_uploads
UPDATE dome_bridge.cutover SET uploads = $2::text::jsonb WHERE id = $1

-- name: set_artifacts
UPDATE dome_bridge.cutover SET artifacts = $2 WHERE id = $1

-- name: set_baseline
UPDATE dome_bridge.cutover SET baseline = $2::text::jsonb WHERE id = $1

-- name: changed
SELECT fileid FROM dome_bridge.cutover_change WHERE cutover = $1 ORDER BY fileid

-- name: take_changed
DELETE FROM dome_bridge.cutover_change WHERE cutover = $1 RETURNING fileid

-- name: forget_changed
DELETE FROM dome_bridge.cutover_change

-- name: trash
SELECT count(*) FROM t_locationinfo_trash

-- name: harmful_trash
SELECT count(*) FROM t_locationinfo_trash t WHERE EXISTS (SELECT FROM t_inodes n WHERE n.ipnfsid = t.ipnfsid)

-- name: finish_sequences
SELECT setval(pg_get_serial_sequence('t_inodes', 'inumber'),
              greatest((SELECT max(inumber) FROM t_inodes), (SELECT last_value FROM {inumber_sequence}))),
       setval(pg_get_serial_sequence('t_tags_inodes', 'itagid'),
              greatest((SELECT max(itagid) FROM t_tags_inodes), (SELECT last_value FROM {itagid_sequence})))

-- name: sequences
SELECT (SELECT last_value FROM {inumber_sequence}) AS inumber, (SELECT max(inumber) FROM t_inodes) AS inumbers,
       (SELECT last_value FROM {itagid_sequence}) AS itagid,
       (SELECT coalesce(max(itagid), 0) FROM t_tags_inodes) AS itagids

-- name: quarantine
-- Uploads come and go; all else is for somebody to look at.
SELECT count(*) AS entries,
       left(md5(coalesce(string_agg(fileid || ' ' || reason || ' ' || subject, chr(10)
                                    ORDER BY fileid, reason, subject), '')), 12) AS digest
  FROM dome_bridge.quarantine WHERE scope = 'entry' AND reason <> 'being-written'

-- name: accepted
SELECT token FROM dome_bridge.quarantine_accepted ORDER BY id DESC LIMIT 1

-- name: accept
INSERT INTO dome_bridge.quarantine_accepted (token) VALUES ($1)

-- name: being_written
SELECT DISTINCT fileid::bigint AS fileid FROM dome_bridge.quarantine WHERE reason = 'being-written'

-- name: path_of
-- Of entries in the quarantine, or in Chimera. Empty where the way to the root is lost.
SELECT f.fileid,
       coalesce(CASE WHEN n.inumber IS NOT NULL THEN inumber2path(n.inumber) END,
                CASE q.parent WHEN $3 THEN '' ELSE inumber2path(q.parent + $2::bigint) END
                || '/' || encode(q.name, 'escape'), '') AS path
  FROM unnest($1::bigint[]) AS f (fileid)
  LEFT JOIN t_inodes n ON n.inumber = f.fileid + $2::bigint
  LEFT JOIN LATERAL (SELECT parent, name FROM dome_bridge.quarantine
                      WHERE fileid = f.fileid AND scope = 'entry' AND name IS NOT NULL LIMIT 1) q ON true

-- name: jdbc_clients
SELECT coalesce(nullif(application_name, ''), 'unnamed') AS application, usename::text AS account,
       count(*) AS sessions
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE '%JDBC%'
 GROUP BY 1, 2 ORDER BY 1, 2

-- name: inodes_beyond
-- dCache's numbers come from a sequence that is kept far ahead of ours.
SELECT ipnfsid FROM t_inodes
 WHERE inumber > $1 AND left(ipnfsid, 20) <> '0000' || $2::text ORDER BY inumber LIMIT 5

-- name: rehearsals
SELECT ended_at, gates, steps, predicted_fence_seconds,
       extract(epoch FROM clock_timestamp() - ended_at)::double precision AS age
  FROM dome_bridge.rehearsal ORDER BY id DESC LIMIT $1

-- name: note_rehearsal
INSERT INTO dome_bridge.rehearsal (gates, steps, predicted_fence_seconds)
VALUES ($1::text::jsonb, $2::text::jsonb, $3) RETURNING id
