-- Pools and their file systems: rows of dpm_pool and dpm_fs.
--
-- Whoever changes either locks all pools first and then, if needed, all file systems, in the order of their
-- rows: there are few, the rules look at all of them, and an insert into dpm_fs by anybody else waits for
-- the row of its pool.
--
-- What an insert does not ask for is there for legacy daemons, with the values that DOME gives it.

-- name: pools_locked
SELECT rowid, poolname FROM {dpm}.dpm_pool ORDER BY rowid FOR UPDATE

-- name: filesystems_locked
SELECT rowid, poolname, server, fs, status FROM {dpm}.dpm_fs ORDER BY rowid FOR UPDATE

-- name: insert_pool
INSERT INTO {dpm}.dpm_pool
    (poolname, defsize, s_type, gc_start_thresh, gc_stop_thresh, def_lifetime, defpintime, max_lifetime,
     maxpintime, fss_policy, gc_policy, mig_policy, rs_policy, `groups`, ret_policy)
VALUES (%s, %s, %s, 0, 0, 604800, 7200, 2592000, 43200, 'maxfreespace', 'lru', 'none', 'fifo', '0', 'R')

-- name: update_pool
UPDATE {dpm}.dpm_pool SET defsize = %s, s_type = %s WHERE rowid = %s

-- name: delete_filesystems_of_pool
DELETE FROM {dpm}.dpm_fs WHERE poolname = %s

-- name: delete_pool
DELETE FROM {dpm}.dpm_pool WHERE rowid = %s

-- name: insert_filesystem
INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) VALUES (%s, %s, %s, 0, 1)

-- name: update_filesystems
UPDATE {dpm}.dpm_fs SET poolname = %s, status = %s WHERE rowid IN %s

-- name: delete_filesystems
DELETE FROM {dpm}.dpm_fs WHERE rowid IN %s
