The record of cutovers: each state is written before what it announces is done.

-- name: lock
SELECT pg_try_advisory_lock($1, $2)

-- name: open
SELECT id, state, nonce, fenced_at FROM dome_bridge.cutover
 WHERE state NOT IN ('committed', 'aborted') ORDER BY id DESC LIMIT 1

-- name: last
SELECT id, state, nonce, started_at, fenced_at, ended_at, reason,
       extract(epoch FROM ended_at - fenced_at)::double precision AS fence_seconds
  FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1

-- name: begin
INSERT INTO dome_bridge.cutover (state, nonce, gates) VALUES ($1, $2, $3::text::jsonb) RETURNING id

-- name: set_state
UPDATE dome_bridge.cutover
   SET state = $2, reason = CASE WHEN $3 = '' THEN reason ELSE $3 END,
       fenced_at = CASE WHEN $2 = 'fenced' THEN coalesce(fenced_at, now()) ELSE fenced_at END,
       ended_at = CASE WHEN $2 IN ('committed', 'aborted') THEN now() END
 WHERE id = $1

-- name: fence_attempted
UPDATE dome_bridge.cutover SET fenced_at = coalesce(fenced_at, now()) WHERE id = $1

-- name: step
INSERT INTO dome_bridge.cutover_step (cutover, name, seconds, detail) VALUES ($1, $2, $3, $4)
ON CONFLICT (cutover, name) DO UPDATE
   SET seconds = dome_bridge.cutover_step.seconds + excluded.seconds, detail = excluded.detail

-- name: steps
SELECT name, seconds, detail FROM dome_bridge.cutover_step WHERE cutover = $1 ORDER BY started_at

-- name: trash
SELECT count(*) FROM t_locationinfo_trash

-- name: finish_sequences
SELECT setval(pg_get_serial_sequence('t_inodes', 'inumber'),
              greatest((SELECT max(inumber) FROM t_inodes), (SELECT last_value FROM {inumber_sequence}))),
       setval(pg_get_serial_sequence('t_tags_inodes', 'itagid'),
              greatest((SELECT max(itagid) FROM t_tags_inodes), (SELECT last_value FROM {itagid_sequence})))
