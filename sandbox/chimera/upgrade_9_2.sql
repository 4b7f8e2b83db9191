-- 9.1: a directory's link count counts subdirectories only; updates of the parent may be put off.
-- 9.2: policies for quality of service.

-- Entries that exist already, but lost+found, which the root has never counted.
UPDATE t_inodes p
   SET inlink = 2 + (SELECT count(*) FROM t_dirs d JOIN t_inodes n ON n.inumber = d.ichild
                      WHERE d.iparent = p.inumber AND n.itype = 16384 AND n.ipnfsid <> lpad('1', 36, '0'))
 WHERE itype = 16384;

CREATE TABLE t_lazy_wcc (
    inumber bigint    NOT NULL,
    nlink   integer   NOT NULL,
    ts      timestamp NOT NULL
);

CREATE INDEX i_inumber ON t_lazy_wcc (inumber);

CREATE OR REPLACE FUNCTION f_create_inode95(parent bigint, name varchar, id varchar, type integer, mode integer,
                                            nlink integer, uid integer, gid integer, size bigint, io integer,
                                            now timestamp)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    created bigint;
BEGIN
    INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio,
                          ictime, iatime, imtime, icrtime, igeneration)
    VALUES (id, type, mode, nlink, uid, gid, size, io, now, now, now, now, 0)
    RETURNING inumber INTO created;
    INSERT INTO t_dirs (iparent, ichild, iname) VALUES (parent, created, name)
        ON CONFLICT (iparent, iname) DO NOTHING;
    IF NOT FOUND THEN
        RETURN -1;  -- the caller rolls back
    END IF;
    UPDATE t_inodes
       SET inlink = inlink + (type = 16384)::integer, imtime = now, ictime = now, igeneration = igeneration + 1
     WHERE inumber = parent;
    RETURN created;
END;
$$;

CREATE FUNCTION f_create_inode95_lazy_wcc(parent bigint, name varchar, id varchar, type integer, mode integer,
                                          nlink integer, uid integer, gid integer, size bigint, io integer,
                                          now timestamp)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    created bigint;
BEGIN
    INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio,
                          ictime, iatime, imtime, icrtime, igeneration)
    VALUES (id, type, mode, nlink, uid, gid, size, io, now, now, now, now, 0)
    RETURNING inumber INTO created;
    INSERT INTO t_dirs (iparent, ichild, iname) VALUES (parent, created, name)
        ON CONFLICT (iparent, iname) DO NOTHING;
    IF NOT FOUND THEN
        RETURN -1;  -- the caller rolls back
    END IF;
    INSERT INTO t_lazy_wcc (inumber, nlink, ts) VALUES (parent, (type = 16384)::integer, now);
    RETURN created;
END;
$$;

CREATE FUNCTION f_propagate_wcc() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE t_lazy_wcc;
    UPDATE t_inodes n
       SET imtime = w.latest, ictime = w.latest, inlink = inlink + w.links, igeneration = igeneration + w.changes
      FROM (SELECT inumber, max(ts) AS latest, sum(nlink)::integer AS links, count(*) AS changes
              FROM t_lazy_wcc GROUP BY inumber) w
     WHERE n.inumber = w.inumber;
    TRUNCATE t_lazy_wcc;
END;
$$;

CREATE TABLE t_qos_policy (
    id     serial      NOT NULL UNIQUE,
    name   varchar(64) NOT NULL PRIMARY KEY,
    policy text        NOT NULL
);

ALTER TABLE t_inodes ADD COLUMN iqos_policy integer REFERENCES t_qos_policy (id), ADD COLUMN iqos_state integer;

INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, description, liquibase)
VALUES ('5', 'sandbox', 'changelog/changeset-9.1.xml', now(), 5, 'EXECUTED', 'createTable', '3.3.2'),
       ('6', 'sandbox', 'changelog/changeset-9.2.xml', now(), 6, 'EXECUTED', 'addColumn', '3.3.2');
