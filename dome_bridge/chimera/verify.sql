The record of comparisons.

-- name: begin
INSERT INTO dome_bridge.verify_run (kind) VALUES ($1) RETURNING id

-- name: unfinished
SELECT id, cursor, compared, missing, extra, different, repaired, seconds FROM dome_bridge.verify_run
 WHERE kind = $1 AND finished_at IS NULL AND started_at > now() - interval '1 day' AND unsettled = 0
 ORDER BY id DESC LIMIT 1

-- name: forget_unfinished
DELETE FROM dome_bridge.verify_run WHERE kind = $1 AND finished_at IS NULL

-- name: advance
UPDATE dome_bridge.verify_run
   SET cursor = $2, compared = $3, missing = $4, extra = $5, different = $6, repaired = $7, seconds = $8,
       unsettled = $9
 WHERE id = $1

-- name: mismatch
INSERT INTO dome_bridge.verify_mismatch (run, fileid, kind, detail, repaired)
VALUES ($1, $2::text::numeric, $3, $4, $5) ON CONFLICT DO NOTHING

-- name: finish
UPDATE dome_bridge.verify_run SET finished_at = now() WHERE id = $1

-- name: last
SELECT extract(epoch FROM clock_timestamp() - finished_at)::double precision AS age,
       missing + extra + different - repaired AS mismatches, missing, extra, different,
       unsettled,
       (SELECT extract(epoch FROM max(finished_at))::double precision FROM dome_bridge.verify_run
         WHERE missing + extra + different = repaired AND unsettled = 0) AS last_clean
  FROM dome_bridge.verify_run
 WHERE finished_at IS NOT NULL AND started_at >= (SELECT capture_since FROM dome_bridge.progress)
 ORDER BY finished_at DESC LIMIT 1

-- name: former_rivals
SELECT DISTINCT o.fileid FROM dome_bridge.claim c
  JOIN dome_bridge.claim o ON o.sfn = c.sfn AND o.fileid <> c.fileid
 WHERE c.fileid = ANY($1::bigint[])

-- name: awakened
SELECT fileid FROM dome_bridge.awakened WHERE fileid = ANY($1::bigint[])
