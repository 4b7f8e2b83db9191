dCache's space manager: its own database, which dCache makes. Looked at, and filled in one transaction
with the triggers of its tables off: they would update one row of srmspace for each file. ALTER TABLE
DISABLE TRIGGER takes the owner's right and is undone by whatever ends the transaction early.

-- name: lacking
-- Columns that we write and that are not there.
SELECT w.tab || '.' || w.col AS name
  FROM (VALUES ('srmlinkgroup', 'id'), ('srmlinkgroup', 'name'), ('srmlinkgroup', 'availablespaceinbytes'),
               ('srmlinkgroup', 'reservedspaceinbytes'), ('srmlinkgroup', 'lastupdatetime'),
               ('srmlinkgroup', 'onlineallowed'), ('srmlinkgroup', 'replicaallowed'),
               ('srmspace', 'id'), ('srmspace', 'linkgroupid'), ('srmspace', 'sizeinbytes'),
               ('srmspace', 'creationtime'), ('srmspace', 'usedspaceinbytes'), ('srmspace', 'description'),
               ('srmspacefile', 'spacereservationid'), ('srmspacefile', 'sizeinbytes'),
               ('srmspacefile', 'creationtime'), ('srmspacefile', 'pnfsid'), ('srmspacefile', 'state'),
               ('srmaccesslatency', 'id'), ('srmretentionpolicy', 'id')) w (tab, col)
 WHERE NOT EXISTS (SELECT FROM information_schema.columns c
                    WHERE c.table_schema = 'public' AND c.table_name = w.tab AND c.column_name = w.col)
 ORDER BY 1

-- name: made_by_dcache
SELECT to_regclass('public.databasechangelog') IS NOT NULL

-- name: changes
SELECT count(*) FROM databasechangelog

-- name: locked
SELECT coalesce(bool_or(locked), false) FROM databasechangeloglock

-- name: not_owned
SELECT relname::text FROM pg_class
 WHERE oid IN ('srmspace'::regclass, 'srmspacefile'::regclass, 'srmlinkgroup'::regclass)
   AND NOT pg_has_role(relowner, 'USAGE')
 ORDER BY 1

-- name: jdbc_clients
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE '%JDBC%'

-- name: lock
SELECT pg_try_advisory_xact_lock($1, $2)

-- name: disable_triggers
ALTER TABLE srmspace DISABLE TRIGGER USER;
ALTER TABLE srmspacefile DISABLE TRIGGER USER

-- name: enable_triggers
ALTER TABLE srmspacefile ENABLE TRIGGER USER;
ALTER TABLE srmspace ENABLE TRIGGER USER

-- name: foreign_reservations
-- Ours have an id that was allotted, and were made at the very millisecond that is noted with it.
SELECT s.id, coalesce(s.description, '') AS description FROM srmspace s
 WHERE NOT EXISTS (SELECT FROM unnest($1::bigint[], $2::bigint[]) AS o (id, created)
                    WHERE o.id = s.id AND o.created = s.creationtime)
 ORDER BY s.id LIMIT 5

-- name: foreign_file
-- By the index of pnfsid: what is no file of this instance sorts before or behind.
SELECT coalesce((SELECT 'id ' || id FROM srmspacefile WHERE pnfsid IS NULL LIMIT 1),
                (SELECT pnfsid FROM srmspacefile WHERE pnfsid < $1 || repeat('0', 16) LIMIT 1),
                (SELECT pnfsid FROM srmspacefile WHERE pnfsid > $1 || repeat('F', 16) LIMIT 1))

-- name: any_file
SELECT coalesce(pnfsid, 'id ' || id) FROM srmspacefile LIMIT 1

-- name: reservations
SELECT s.id, s.sizeinbytes AS size, s.usedspaceinbytes AS used, s.allocatedspaceinbytes AS allocated,
       s.creationtime AS created, s.state, g.name AS link_group
  FROM srmspace s JOIN srmlinkgroup g ON g.id = s.linkgroupid ORDER BY s.id

-- name: files
SELECT spacereservationid AS id, count(*) AS files, sum(sizeinbytes) AS used
  FROM srmspacefile GROUP BY spacereservationid

-- name: link_groups
SELECT name, availablespaceinbytes AS available, reservedspaceinbytes AS reserved FROM srmlinkgroup

-- name: enumerations
INSERT INTO srmaccesslatency (id, name)
SELECT w.id, w.name FROM (VALUES (0, 'NEARLINE'), (1, 'ONLINE')) w (id, name)
 WHERE NOT EXISTS (SELECT FROM srmaccesslatency h WHERE h.id = w.id);
INSERT INTO srmretentionpolicy (id, name)
SELECT w.id, w.name FROM (VALUES (0, 'CUSTODIAL'), (1, 'OUTPUT'), (2, 'REPLICA')) w (id, name)
 WHERE NOT EXISTS (SELECT FROM srmretentionpolicy h WHERE h.id = w.id)

-- name: forget_files
TRUNCATE srmspacefile

-- name: forget_reservations
DELETE FROM srmspace

-- name: forget_reservations_but
DELETE FROM srmspace WHERE NOT id = ANY($1::bigint[])

-- name: forget_link_groups
DELETE FROM srmlinkgroup g
 WHERE g.name = ANY($1::text[]) AND NOT EXISTS (SELECT FROM srmspace s WHERE s.linkgroupid = g.id)
   AND NOT EXISTS (SELECT FROM srmlinkgroupvos v WHERE v.linkgroupid = g.id)

-- name: put_link_group
INSERT INTO srmlinkgroup (name, availablespaceinbytes, reservedspaceinbytes, lastupdatetime, onlineallowed,
    nearlineallowed, replicaallowed, outputallowed, custodialallowed)
VALUES ($1, 0, 0, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, 1, 0, 1, 0, 0)
    ON CONFLICT (name) DO NOTHING

-- name: put_reservation
INSERT INTO srmspace AS s (id, vogroup, vorole, retentionpolicy, accesslatency, linkgroupid, sizeinbytes,
    creationtime, expirationtime, description, state, usedspaceinbytes, allocatedspaceinbytes)
SELECT $1, $2, NULL, 2, 1, g.id, $3, $4, NULL, $5, 0, 0, 0 FROM srmlinkgroup g WHERE g.name = $6
    ON CONFLICT (id) DO UPDATE
   SET vogroup = excluded.vogroup, vorole = NULL, retentionpolicy = 2, accesslatency = 1,
       linkgroupid = excluded.linkgroupid, expirationtime = NULL, description = excluded.description,
       state = 0, allocatedspaceinbytes = 0

-- name: change_table
CREATE TEMP TABLE file_change (
    vogroup text, spacereservationid bigint, sizeinbytes bigint, creationtime bigint, pnfsid varchar(36) PRIMARY KEY,
    state integer
) ON COMMIT DROP

-- name: analyze_changes
ANALYZE file_change

-- name: delete_changed
-- Here and below: by reservation, how many rows, and by how many bytes its sum changes.
WITH deleted AS (
    DELETE FROM srmspacefile f USING file_change c
     WHERE f.pnfsid = c.pnfsid AND c.spacereservationid IS NULL
    RETURNING f.spacereservationid AS id, f.sizeinbytes AS size
)
SELECT id, count(*) AS files, -sum(size) AS change FROM deleted GROUP BY id

-- name: update_changed
WITH updated AS (
    UPDATE srmspacefile f
       SET vogroup = c.vogroup, spacereservationid = c.spacereservationid, sizeinbytes = c.sizeinbytes,
           state = c.state
      FROM file_change c JOIN srmspacefile o ON o.pnfsid = c.pnfsid
     WHERE f.id = o.id AND c.spacereservationid IS NOT NULL
       AND (o.vogroup, o.spacereservationid, o.sizeinbytes, o.state)
           IS DISTINCT FROM (c.vogroup, c.spacereservationid, c.sizeinbytes, c.state)
    RETURNING o.spacereservationid AS old_id, o.sizeinbytes AS old_size, f.spacereservationid AS id,
              f.sizeinbytes AS size
)
SELECT id, sum(files)::bigint AS files, sum(size) AS change
  FROM (SELECT old_id AS id, 0 AS files, -old_size AS size FROM updated
        UNION ALL SELECT id, 1, size FROM updated) u
 GROUP BY id

-- name: insert_changed
WITH inserted AS (
    INSERT INTO srmspacefile (vogroup, spacereservationid, sizeinbytes, creationtime, pnfsid, state)
    SELECT c.vogroup, c.spacereservationid, c.sizeinbytes, c.creationtime, c.pnfsid, c.state
      FROM file_change c
     WHERE c.spacereservationid IS NOT NULL
       AND NOT EXISTS (SELECT FROM srmspacefile f WHERE f.pnfsid = c.pnfsid)
    RETURNING spacereservationid AS id, sizeinbytes AS size
)
SELECT id, count(*) AS files, sum(size) AS change FROM inserted GROUP BY id

-- name: set_reservation
UPDATE srmspace SET sizeinbytes = $2, usedspaceinbytes = $3 WHERE id = $1

-- name: set_link_group
UPDATE srmlinkgroup SET availablespaceinbytes = $2, reservedspaceinbytes = $3 WHERE name = $1

-- name: advance_sequence
SELECT setval(pg_get_serial_sequence('srmspace', 'id'),
              greatest((SELECT max(id) FROM srmspace), (SELECT last_value FROM {sequence})))

-- name: sequence
SELECT pg_get_serial_sequence('srmspace', 'id')
