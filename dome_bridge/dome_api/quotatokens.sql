-- Quotatokens: rows of dpm_space_reserv. A plain legacy token has no path.
--
-- MariaDB takes texts that differ in trailing blanks for the same: what is looked up is compared again by
-- its bytes, and what is changed is named by its rowid.

-- name: quotatokens
SELECT s_token, u_token, poolname, path, t_space, u_space, `groups` FROM {dpm}.dpm_space_reserv ORDER BY rowid

-- name: group_names
SELECT gid, groupname FROM {cns}.Cns_groupinfo WHERE gid IN %s ORDER BY rowid

-- name: group_numbers
SELECT groupname, gid FROM {cns}.Cns_groupinfo WHERE groupname IN %s ORDER BY rowid

-- name: pool_with_filesystem
SELECT DISTINCT poolname FROM {dpm}.dpm_fs WHERE poolname = %s

-- name: quotatokens_of_path_locked
SELECT rowid, s_token, u_token, poolname, path, t_space, u_space, `groups`
FROM {dpm}.dpm_space_reserv WHERE path = %s ORDER BY rowid FOR UPDATE

-- name: quotatokens_of_id_locked
SELECT rowid, s_token, u_token, poolname, path, t_space, u_space, `groups`
FROM {dpm}.dpm_space_reserv WHERE s_token = %s ORDER BY rowid FOR UPDATE

-- name: insert_quotatoken
-- The latest time that fits stands for fifty years ahead: a strict server refuses any later one.
INSERT INTO {dpm}.dpm_space_reserv
    (s_token, u_token, t_space, g_space, u_space, poolname, `groups`, path, client_dn,
     s_uid, s_gid, ret_policy, ac_latency, s_type, assign_time, expire_time)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0, '_', '0', '-', UNIX_TIMESTAMP(), 2147483647)

-- name: update_quotatoken
UPDATE {dpm}.dpm_space_reserv
SET s_token = %s, u_token = %s, t_space = %s, g_space = %s, u_space = %s, poolname = %s,
    `groups` = %s, path = %s
WHERE rowid = %s

-- name: delete_quotatokens
DELETE FROM {dpm}.dpm_space_reserv WHERE rowid IN %s
