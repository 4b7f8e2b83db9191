Copies of DPM's small tables: pools and tokens decide the mapping, users and groups are for
the hand-over. They are replaced as a whole.

-- name: delete_users
DELETE FROM dome_bridge.dpm_user

-- name: insert_users
INSERT INTO dome_bridge.dpm_user (userid, username, user_ca, banned) VALUES ($1, $2, $3, $4)
ON CONFLICT (username) DO NOTHING

-- name: delete_groups
DELETE FROM dome_bridge.dpm_group

-- name: insert_groups
INSERT INTO dome_bridge.dpm_group (gid, groupname, banned) VALUES ($1, $2, $3)
ON CONFLICT (groupname) DO NOTHING

-- name: delete_pools
DELETE FROM dome_bridge.dpm_pool

-- name: insert_pools
INSERT INTO dome_bridge.dpm_pool (poolname, defsize, s_type, pooltype) VALUES ($1, $2, $3, $4)
ON CONFLICT (poolname) DO NOTHING

-- name: delete_filesystems
DELETE FROM dome_bridge.dpm_fs

-- name: insert_filesystems
INSERT INTO dome_bridge.dpm_fs (poolname, server, fs, status, dcache_pool) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (poolname, server, fs) DO NOTHING

-- name: delete_quotatokens
DELETE FROM dome_bridge.dpm_token

-- name: insert_quotatokens
INSERT INTO dome_bridge.dpm_token (s_token, u_token, poolname, path, t_space, groups)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (s_token) DO NOTHING

-- name: filesystems
SELECT poolname, server, fs FROM dome_bridge.dpm_fs

-- name: note_moved
INSERT INTO dome_bridge.moved_server (server) VALUES ($1) ON CONFLICT DO NOTHING

-- name: moved
SELECT server FROM dome_bridge.moved_server ORDER BY server

-- name: forget_moved
DELETE FROM dome_bridge.moved_server WHERE server = ANY($1)

-- name: unplaced
SELECT fileid FROM (
    SELECT fileid::bigint FROM dome_bridge.quarantine
     WHERE reason IN ('unknown-filesystem', 'no-usable-replica') AND fileid > $1
    UNION
    SELECT fileid FROM dome_bridge.odd_host WHERE fileid > $1) u ORDER BY fileid LIMIT $2
