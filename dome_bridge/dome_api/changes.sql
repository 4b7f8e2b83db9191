-- Changing the namespace. Everything here belongs into a transaction; times are the database server's.
-- Rows are locked in the order that DPM's own statements follow: the id counter, directories from the
-- top down, the entry, its replicas.

-- name: last_fileid
SELECT id FROM {cns}.Cns_unique_id FOR UPDATE

-- name: first_fileid
INSERT INTO {cns}.Cns_unique_id (id) VALUES (%s)

-- name: next_fileid
UPDATE {cns}.Cns_unique_id SET id = %s

-- name: insert_entry
INSERT INTO {cns}.Cns_file_metadata
    (fileid, parent_fileid, guid, name, filemode, nlink, owner_uid, gid, filesize, atime, mtime, ctime,
     fileclass, status, csumtype, csumvalue, acl, xattr)
VALUES (%s, %s, NULL, %s, %s, %s, %s, %s, 0, UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), UNIX_TIMESTAMP(),
     0, '-', '', '', %s, '')

-- name: insert_link_target
INSERT INTO {cns}.Cns_symlinks (fileid, linkname) VALUES (%s, %s)

-- name: count_children
UPDATE {cns}.Cns_file_metadata
SET nlink = GREATEST(nlink + %s, 0), mtime = UNIX_TIMESTAMP(), ctime = UNIX_TIMESTAMP()
WHERE fileid = %s

-- name: touch_directory
UPDATE {cns}.Cns_file_metadata
SET atime = UNIX_TIMESTAMP(), mtime = UNIX_TIMESTAMP(), ctime = UNIX_TIMESTAMP()
WHERE fileid = %s

-- name: delete_link_target
DELETE FROM {cns}.Cns_symlinks WHERE fileid = %s

-- name: delete_comment
DELETE FROM {cns}.Cns_user_metadata WHERE u_fileid = %s

-- name: delete_entry
DELETE FROM {cns}.Cns_file_metadata WHERE fileid = %s

-- name: move_entry
UPDATE {cns}.Cns_file_metadata SET parent_fileid = %s, name = %s, ctime = UNIX_TIMESTAMP() WHERE fileid = %s

-- name: set_owner_mode_acl
UPDATE {cns}.Cns_file_metadata
SET owner_uid = %s, gid = %s, filemode = %s, acl = COALESCE(NULLIF(%s, ''), acl), ctime = UNIX_TIMESTAMP()
WHERE fileid = %s

-- name: set_size
UPDATE {cns}.Cns_file_metadata SET filesize = %s, ctime = UNIX_TIMESTAMP() WHERE fileid = %s

-- name: set_xattr
UPDATE {cns}.Cns_file_metadata
SET xattr = %s, csumtype = COALESCE(%s, csumtype), csumvalue = COALESCE(%s, csumvalue)
WHERE fileid = %s

-- name: insert_comment
INSERT INTO {cns}.Cns_user_metadata (u_fileid, comments) VALUES (%s, %s)

-- name: set_comment
UPDATE {cns}.Cns_user_metadata SET comments = %s WHERE u_fileid = %s

-- name: grow_directories
UPDATE {cns}.Cns_file_metadata SET filesize = filesize + %s WHERE fileid IN %s

-- name: shrink_directories
UPDATE {cns}.Cns_file_metadata SET filesize = IF(filesize < %s, filesize, filesize - %s) WHERE fileid IN %s
