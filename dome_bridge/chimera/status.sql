What `dome-bridge status` and the monitoring show. Read only.

-- name: overview
SELECT p.phase, p.phase_since, p.heartbeat_at, p.applied_at, p.journal_applied,
       p.snapshot_started, p.snapshot_finished, p.entries_expected,
       s.instance_id, s.chimera_version,
       (SELECT count(DISTINCT fileid) FROM dome_bridge.quarantine WHERE scope = 'entry') AS quarantined,
       (SELECT count(*) FROM dome_bridge.quarantine WHERE scope = 'fact') AS dropped_facts
  FROM dome_bridge.progress p CROSS JOIN dome_bridge.site s

-- name: snapshot_steps
SELECT step, sum(entries)::bigint AS entries, max(done_at) AS done_at
  FROM dome_bridge.snapshot_range GROUP BY step

-- name: last_verify
SELECT started_at, finished_at, compared, missing, extra, different, repaired
  FROM dome_bridge.verify_run WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1

-- name: last_clean
SELECT max(finished_at) FROM dome_bridge.verify_run
 WHERE finished_at IS NOT NULL AND missing + extra + different = repaired AND unsettled = 0

-- name: cutover
SELECT id, state, started_at, fenced_at, ended_at, reason
  FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1

-- name: cutover_steps
SELECT name, seconds FROM dome_bridge.cutover_step WHERE cutover = $1 ORDER BY started_at, name

-- name: mirrored
-- A range instead of LIKE: the unique index on ipnfsid serves it whatever the collation, and 'G' comes
-- after every hexadecimal digit.
SELECT (SELECT count(*) FROM t_inodes
         WHERE ipnfsid >= '0000' || $1::text AND ipnfsid < '0000' || $1::text || 'G')
       + (SELECT count(*) FROM t_inodes WHERE ipnfsid = repeat('0', 36))

-- name: mirrored_estimate
SELECT nullif(greatest(reltuples, 0), 0)::bigint FROM pg_class WHERE oid = 't_inodes'::regclass

-- name: quarantined_by_reason
SELECT reason, count(DISTINCT fileid) AS entries FROM dome_bridge.quarantine
 WHERE scope = 'entry' GROUP BY reason ORDER BY reason
