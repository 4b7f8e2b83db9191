-- Changing replicas and the accounts of the quotatokens that they are charged to.

-- name: insert_replica
INSERT INTO {cns}.Cns_file_replica
    (fileid, nbaccesses, ctime, atime, ptime, ltime, r_type, status, f_type, setname, poolname, host, fs,
     sfn, xattr)
VALUES (%s, 0, UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), NULL, %s, %s, %s,
     %s, %s, %s, %s, %s)

-- name: update_replica
UPDATE {cns}.Cns_file_replica
SET ctime = UNIX_TIMESTAMP(), status = %s, f_type = %s, setname = %s, poolname = %s, host = %s, fs = %s,
    sfn = %s, xattr = %s
WHERE rowid = %s

-- name: set_replica_status
UPDATE {cns}.Cns_file_replica SET status = %s, xattr = %s, ctime = UNIX_TIMESTAMP() WHERE rowid = %s

-- name: delete_replica
DELETE FROM {cns}.Cns_file_replica WHERE rowid = %s

-- name: return_space
UPDATE {dpm}.dpm_space_reserv SET u_space = u_space + %s WHERE s_token = %s

-- name: replicas_by_rfn_locked
-- Nobody can register that name until the transaction ends, not even for another file.
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.sfn = %s ORDER BY r.rowid FOR UPDATE

-- name: replicas_by_ids
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.rowid IN %s ORDER BY r.rowid

-- name: replica_bounds
SELECT MIN(rowid), MAX(rowid) FROM {cns}.Cns_file_replica

-- name: marked_replicas
-- No index leads to a status: ranges of the primary key are read, and only now and then.
SELECT {replica} FROM {cns}.Cns_file_replica r
WHERE r.rowid BETWEEN %s AND %s AND r.status = 'D' AND LOCATE(%s, r.xattr) > 0

-- name: lock_directories
SELECT fileid FROM {cns}.Cns_file_metadata WHERE fileid IN %s ORDER BY fileid FOR UPDATE

-- name: complete_replica
UPDATE {cns}.Cns_file_replica
SET status = '-', ctime = UNIX_TIMESTAMP(), atime = UNIX_TIMESTAMP(), ptime = UNIX_TIMESTAMP(),
    ltime = UNIX_TIMESTAMP(), xattr = %s
WHERE rowid = %s

-- name: charge_space
UPDATE {dpm}.dpm_space_reserv SET u_space = u_space - %s WHERE s_token = %s

-- name: abandoned_uploads
SELECT COUNT(*), MIN(ctime) FROM {cns}.Cns_file_replica
WHERE rowid BETWEEN %s AND %s AND status = 'P' AND ctime < UNIX_TIMESTAMP() - %s

-- name: replicaids_by_rfns
SELECT rowid FROM {cns}.Cns_file_replica WHERE sfn IN %s

-- name: replicas_by_ids_locked
SELECT {replica} FROM {cns}.Cns_file_replica r WHERE r.rowid IN %s ORDER BY r.rowid FOR UPDATE
