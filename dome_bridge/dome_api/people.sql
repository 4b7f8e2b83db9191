-- Users and groups. Whoever gives out a number locks its counter first, as DPM's own statements do; if
-- both are needed, the one of the users before the one of the groups.
--
-- MariaDB takes names that differ in trailing blanks for the same: what is read by name is compared
-- again by its bytes, and what is changed by name is named in bytes too.

-- name: identities
SELECT 'user', CAST(username AS BINARY), userid, banned, CAST(xattr AS BINARY)
FROM {cns}.Cns_userinfo WHERE username IN %s
UNION ALL
SELECT 'group', CAST(groupname AS BINARY), gid, banned, CAST(xattr AS BINARY)
FROM {cns}.Cns_groupinfo WHERE groupname IN %s

-- name: users
SELECT username, userid, banned, xattr FROM {cns}.Cns_userinfo ORDER BY rowid

-- name: user_by_name
SELECT username, userid, banned, xattr FROM {cns}.Cns_userinfo WHERE username = %s

-- name: user_by_id
SELECT username, userid, banned, xattr FROM {cns}.Cns_userinfo WHERE userid = %s ORDER BY rowid LIMIT 1

-- name: user_locked
SELECT username, userid, banned, xattr FROM {cns}.Cns_userinfo WHERE username = %s FOR UPDATE

-- name: last_user_id
SELECT id FROM {cns}.Cns_unique_uid FOR UPDATE

-- name: greatest_user_id
SELECT MAX(userid) FROM {cns}.Cns_userinfo

-- name: first_user_id
INSERT INTO {cns}.Cns_unique_uid (id) VALUES (%s)

-- name: next_user_id
UPDATE {cns}.Cns_unique_uid SET id = %s

-- name: insert_user
INSERT INTO {cns}.Cns_userinfo (userid, username, user_ca, banned, xattr) VALUES (%s, %s, '', 0, NULL)

-- name: update_user
UPDATE {cns}.Cns_userinfo SET banned = %s, xattr = %s WHERE username = %s

-- name: delete_user
DELETE FROM {cns}.Cns_userinfo WHERE username = %s AND CAST(username AS BINARY) = %s

-- name: groups
SELECT groupname, gid, banned, xattr FROM {cns}.Cns_groupinfo ORDER BY rowid

-- name: group_by_name
SELECT groupname, gid, banned, xattr FROM {cns}.Cns_groupinfo WHERE groupname = %s

-- name: group_by_id
SELECT groupname, gid, banned, xattr FROM {cns}.Cns_groupinfo WHERE gid = %s ORDER BY rowid LIMIT 1

-- name: group_locked
SELECT groupname, gid, banned, xattr FROM {cns}.Cns_groupinfo WHERE groupname = %s FOR UPDATE

-- name: last_group_id
SELECT id FROM {cns}.Cns_unique_gid FOR UPDATE

-- name: greatest_group_id
SELECT MAX(gid) FROM {cns}.Cns_groupinfo

-- name: first_group_id
INSERT INTO {cns}.Cns_unique_gid (id) VALUES (%s)

-- name: next_group_id
UPDATE {cns}.Cns_unique_gid SET id = %s

-- name: insert_group
INSERT INTO {cns}.Cns_groupinfo (gid, groupname, banned, xattr) VALUES (%s, %s, 0, NULL)

-- name: update_group
UPDATE {cns}.Cns_groupinfo SET banned = %s, xattr = %s WHERE groupname = %s

-- name: delete_group
DELETE FROM {cns}.Cns_groupinfo WHERE groupname = %s AND CAST(groupname AS BINARY) = %s
