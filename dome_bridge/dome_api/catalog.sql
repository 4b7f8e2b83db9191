-- Reading the namespace. The columns of an entry and of a replica are inserted for {entry} and
-- {replica} by catalog.py, which also makes the look-ups by path: they join as often as the path is deep.

-- name: entry_by_fileid
SELECT {entry} FROM {cns}.Cns_file_metadata e0 WHERE e0.fileid = %s

-- name: entry_locked
SELECT {entry} FROM {cns}.Cns_file_metadata e0 WHERE e0.fileid = %s FOR UPDATE

-- name: entry_shared
SELECT {entry} FROM {cns}.Cns_file_metadata e0 WHERE e0.fileid = %s LOCK IN SHARE MODE

-- name: child_locked
SELECT {entry} FROM {cns}.Cns_file_metadata e0 WHERE e0.parent_fileid = %s AND e0.name = %s FOR UPDATE

-- name: children
SELECT {entry} FROM {cns}.Cns_file_metadata e0 WHERE e0.parent_fileid = %s ORDER BY e0.name

-- name: any_child_locked
SELECT fileid FROM {cns}.Cns_file_metadata WHERE parent_fileid = %s LIMIT 1 FOR UPDATE

-- name: step_on_path
SELECT e.fileid, e.filemode, e.name, l.linkname FROM {cns}.Cns_file_metadata e
LEFT JOIN {cns}.Cns_symlinks l ON l.fileid = e.fileid WHERE e.parent_fileid = %s AND e.name = %s

-- name: replicas_of_fileid
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.fileid = %s ORDER BY r.rowid

-- name: replicas_locked
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.fileid = %s ORDER BY r.rowid FOR UPDATE

-- name: replica_by_rfn
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.sfn = %s ORDER BY r.rowid LIMIT 1

-- name: replica_by_id
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.rowid = %s

-- name: replica_locked
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.rowid = %s FOR UPDATE

-- name: link_target
SELECT linkname FROM {cns}.Cns_symlinks WHERE fileid = %s

-- name: comment
SELECT comments FROM {cns}.Cns_user_metadata WHERE u_fileid = %s

-- name: filesystems
SELECT poolname, server, fs, status FROM {dpm}.dpm_fs ORDER BY rowid

-- name: disk_servers
SELECT DISTINCT server FROM {dpm}.dpm_fs

-- name: pools
SELECT poolname, defsize, s_type FROM {dpm}.dpm_pool ORDER BY rowid
