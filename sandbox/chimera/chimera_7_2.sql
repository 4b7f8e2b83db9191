-- dCache's namespace as of release 7.2, as far as a mirror meets it.
-- Written from observation of dCache's own databases, for tests and the demo only: on a site
-- dCache makes its tables itself. Left out are the functions for tape systems.

CREATE TABLE databasechangelog (
    id            varchar(255) NOT NULL,
    author        varchar(255) NOT NULL,
    filename      varchar(255) NOT NULL,
    dateexecuted  timestamp    NOT NULL,
    orderexecuted integer      NOT NULL,
    exectype      varchar(10)  NOT NULL,
    md5sum        varchar(35),
    description   varchar(255),
    comments      varchar(255),
    tag           varchar(255),
    liquibase     varchar(20)
);

CREATE TABLE databasechangeloglock (
    id          integer PRIMARY KEY,
    locked      boolean NOT NULL,
    lockgranted timestamp,
    lockedby    varchar(255)
);

INSERT INTO databasechangeloglock (id, locked) VALUES (1, false);

CREATE TABLE t_inodes (
    ipnfsid          varchar(36) NOT NULL,
    itype            integer     NOT NULL,
    imode            integer     NOT NULL,
    inlink           integer     NOT NULL,
    iuid             integer     NOT NULL,
    igid             integer     NOT NULL,
    isize            bigint      NOT NULL,
    iio              integer     NOT NULL,
    ictime           timestamp   NOT NULL,
    iatime           timestamp   NOT NULL,
    imtime           timestamp   NOT NULL,
    icrtime          timestamp   NOT NULL DEFAULT now(),
    igeneration      bigint      NOT NULL DEFAULT 0,
    iaccess_latency  smallint,
    iretention_policy smallint,
    inumber          bigserial   NOT NULL,
    CONSTRAINT t_inodes_pkey PRIMARY KEY (ipnfsid)
) WITH (fillfactor = 75);

CREATE UNIQUE INDEX i_inodes_inumber ON t_inodes (inumber);

CREATE TABLE t_dirs (
    iparent bigint       NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE,
    ichild  bigint       NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE,
    iname   varchar(255) NOT NULL,
    CONSTRAINT t_dirs_pkey PRIMARY KEY (iparent, iname)
);

CREATE INDEX i_dirs_ichild ON t_dirs (ichild);

CREATE TABLE t_locationinfo (
    inumber   bigint        NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    itype     integer       NOT NULL,
    ipriority integer       NOT NULL,
    ictime    timestamp     NOT NULL,
    iatime    timestamp     NOT NULL,
    istate    integer       NOT NULL,
    ilocation varchar(1024) NOT NULL,
    CONSTRAINT t_locationinfo_pkey PRIMARY KEY (inumber, itype, ilocation)
);

CREATE TABLE t_locationinfo_trash (
    ipnfsid   varchar(36)   NOT NULL,
    itype     integer       NOT NULL,
    ilocation varchar(1024) NOT NULL,
    ipriority integer       NOT NULL,
    ictime    timestamp     NOT NULL,
    iatime    timestamp     NOT NULL,
    istate    integer       NOT NULL,
    CONSTRAINT t_locationinfo_trash_pkey PRIMARY KEY (ipnfsid, itype, ilocation)
);

CREATE INDEX i_locationinfo_trash_itype_ilocation ON t_locationinfo_trash (itype, ilocation);

CREATE TABLE t_inodes_checksum (
    inumber bigint       NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    itype   integer      NOT NULL,
    isum    varchar(128) NOT NULL,
    CONSTRAINT t_inodes_checksum_pkey PRIMARY KEY (inumber, itype)
);

CREATE TABLE t_inodes_data (
    inumber   bigint PRIMARY KEY REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    ifiledata bytea
);

-- dCache made this table anew under a second name and renamed it; the sequence kept the 2.
CREATE SEQUENCE t_tags_inodes2_itagid_seq;

CREATE TABLE t_tags_inodes (
    itagid bigint    NOT NULL DEFAULT nextval('t_tags_inodes2_itagid_seq'),
    imode  integer   NOT NULL,
    inlink integer   NOT NULL,
    iuid   integer   NOT NULL,
    igid   integer   NOT NULL,
    isize  integer   NOT NULL,
    ictime timestamp NOT NULL,
    iatime timestamp NOT NULL,
    imtime timestamp NOT NULL,
    ivalue bytea,
    CONSTRAINT t_tags_inodes_pkey PRIMARY KEY (itagid)
);

ALTER SEQUENCE t_tags_inodes2_itagid_seq OWNED BY t_tags_inodes.itagid;

-- No cascade on delete: tags keep a directory from being deleted.
CREATE TABLE t_tags (
    inumber  bigint       NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE,
    itagid   bigint       NOT NULL REFERENCES t_tags_inodes (itagid),
    isorign  integer      NOT NULL,
    itagname varchar(255) NOT NULL,
    CONSTRAINT t_tags_pkey PRIMARY KEY (inumber, itagname)
);

CREATE INDEX i_tags_itagid ON t_tags (itagid);

CREATE TABLE t_acl (
    inumber    bigint  NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    ace_order  integer NOT NULL DEFAULT 0,
    rs_type    integer NOT NULL,
    type       integer NOT NULL DEFAULT 0,
    access_msk integer NOT NULL DEFAULT 0,
    who        integer NOT NULL,
    who_id     integer,
    flags      integer,
    CONSTRAINT t_acl_pkey PRIMARY KEY (inumber, ace_order)
);

CREATE TABLE t_xattr (
    inumber bigint       NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    ikey    varchar(255) NOT NULL,
    ivalue  bytea        NOT NULL,
    CONSTRAINT t_xattr_pkey PRIMARY KEY (inumber, ikey)
);

CREATE TABLE t_labels (
    label_id  bigserial    NOT NULL UNIQUE,
    labelname varchar(255) NOT NULL UNIQUE
);

CREATE TABLE t_labels_ref (
    inumber  bigint NOT NULL REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    label_id bigint NOT NULL REFERENCES t_labels (label_id) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT t_labels_ref_pkey PRIMARY KEY (inumber, label_id)
);

CREATE TABLE t_storageinfo (
    inumber          bigint       NOT NULL PRIMARY KEY REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    ihsmname         varchar(64)  NOT NULL,
    istoragegroup    varchar(64)  NOT NULL,
    istoragesubgroup varchar(256) NOT NULL
);

CREATE TABLE t_level_1 (
    inumber   bigint    NOT NULL PRIMARY KEY REFERENCES t_inodes (inumber) ON UPDATE CASCADE ON DELETE CASCADE,
    imode     integer   NOT NULL,
    inlink    integer   NOT NULL,
    iuid      integer   NOT NULL,
    igid      integer   NOT NULL,
    isize     integer   NOT NULL,
    ictime    timestamp NOT NULL,
    iatime    timestamp NOT NULL,
    imtime    timestamp NOT NULL,
    ifiledata bytea
);

-- LIKE does not copy foreign keys.
DO $$
BEGIN
    FOR level IN 2..7 LOOP
        EXECUTE format('CREATE TABLE t_level_%s (LIKE t_level_1 INCLUDING ALL)', level);
        EXECUTE format('ALTER TABLE t_level_%s ADD FOREIGN KEY (inumber) REFERENCES t_inodes (inumber)'
                       ' ON UPDATE CASCADE ON DELETE CASCADE', level);
    END LOOP;
END;
$$;

CREATE TABLE t_groups (
    id         integer     NOT NULL PRIMARY KEY,
    group_name varchar(64) NOT NULL
);

CREATE TABLE t_fstat (
    iusedfiles bigint,
    iusedspace bigint
);

CREATE TABLE t_user_quota (
    iuid             integer NOT NULL PRIMARY KEY,
    icustodial_used  bigint  NOT NULL,
    ioutput_used     bigint  NOT NULL,
    ireplica_used    bigint  NOT NULL,
    icustodial_limit bigint,
    ioutput_limit    bigint,
    ireplica_limit   bigint
);

CREATE TABLE t_group_quota (
    igid             integer NOT NULL PRIMARY KEY,
    icustodial_used  bigint  NOT NULL,
    ioutput_used     bigint  NOT NULL,
    ireplica_used    bigint  NOT NULL,
    icustodial_limit bigint,
    ioutput_limit    bigint,
    ireplica_limit   bigint
);

-- Identifiers and paths

CREATE FUNCTION pnfsid2inumber(id varchar) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT inumber FROM t_inodes WHERE ipnfsid = id $$;

CREATE FUNCTION inumber2pnfsid(number bigint) RETURNS varchar LANGUAGE sql STABLE AS
$$ SELECT ipnfsid FROM t_inodes WHERE inumber = number $$;

-- From the root, '' for the root itself. Of a file with several names any one path is right.
CREATE FUNCTION inumber2path(number bigint) RETURNS varchar LANGUAGE plpgsql STABLE AS $$
DECLARE
    entry record;
    path  varchar := '';
    here  bigint  := number;
BEGIN
    LOOP
        SELECT iparent, iname INTO entry FROM t_dirs WHERE ichild = here LIMIT 1;
        EXIT WHEN NOT FOUND;
        path := '/' || entry.iname || path;
        here := entry.iparent;
    END LOOP;
    RETURN path;
END;
$$;

-- A path without leading slash. Links are followed, the last one too; an empty element ends the
-- walk. A link's target comes through the `escape` form: with bytes above 0x7f it is not found.
CREATE FUNCTION path2inumber(root bigint, path varchar) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    here   bigint := root;
    entry  record;
    target varchar;
    step   varchar;
BEGIN
    IF path = '' THEN
        RAISE EXCEPTION 'the path is empty';
    END IF;
    FOREACH step IN ARRAY string_to_array(path, '/') LOOP
        EXIT WHEN step = '';
        CONTINUE WHEN step = '.';
        IF step = '..' THEN
            here := coalesce((SELECT d.iparent FROM t_dirs d WHERE d.ichild = here LIMIT 1), here);
            CONTINUE;
        END IF;
        SELECT n.inumber, n.itype INTO entry
          FROM t_dirs d JOIN t_inodes n ON n.inumber = d.ichild
         WHERE d.iparent = here AND d.iname = step;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF entry.itype = 40960 THEN
            SELECT encode(x.ifiledata, 'escape') INTO target FROM t_inodes_data x WHERE x.inumber = entry.inumber;
            IF target LIKE '/%' THEN
                here := path2inumber(pnfsid2inumber(repeat('0', 36)), substr(target, 2));
            ELSE
                here := path2inumber(here, target);
            END IF;
        ELSE
            here := entry.inumber;
        END IF;
        IF here IS NULL THEN
            RETURN NULL;
        END IF;
    END LOOP;
    RETURN here;
END;
$$;

-- Creating an entry. The parent's link count grows with every entry, up to 9.0.

CREATE FUNCTION f_create_inode95(parent bigint, name varchar, id varchar, type integer, mode integer,
                                 nlink integer, uid integer, gid integer, size bigint, io integer, now timestamp)
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
       SET inlink = inlink + 1, imtime = now, ictime = now, igeneration = igeneration + 1
     WHERE inumber = parent;
    RETURN created;
END;
$$;

-- What is deleted is left to the cleaner, which looks at the id only. There is no conflict
-- clause here nor in dCache: deleting an id whose trash is not yet emptied fails.

CREATE FUNCTION f_locationinfo2trash() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO t_locationinfo_trash (ipnfsid, itype, ilocation, ipriority, ictime, iatime, istate)
    SELECT OLD.ipnfsid, l.itype, l.ilocation, l.ipriority, now(), l.iatime, l.istate
      FROM t_locationinfo l
     WHERE l.inumber = OLD.inumber;
    INSERT INTO t_locationinfo_trash (ipnfsid, itype, ilocation, ipriority, ictime, iatime, istate)
    VALUES (OLD.ipnfsid, 2, '', 0, now(), now(), 1);
    RETURN OLD;
END;
$$;

CREATE TRIGGER tgr_locationinfo_trash BEFORE DELETE ON t_inodes
    FOR EACH ROW EXECUTE PROCEDURE f_locationinfo2trash();

-- What a new database holds

INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime)
VALUES (repeat('0', 36), 16384, 511, 2, 0, 0, 512, 0, now(), now(), now());
INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime)
VALUES (lpad('1', 36, '0'), 16384, 448, 2, 0, 0, 512, 0, now(), now(), now());

INSERT INTO t_dirs (iparent, ichild, iname) VALUES (1, 2, 'lost+found');

INSERT INTO t_fstat (iusedfiles, iusedspace) VALUES (1048576, 1048576);

INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, description, liquibase)
VALUES ('1', 'sandbox', 'changelog/changeset-1.8.0.xml', now(), 1, 'EXECUTED', 'createTable', '3.3.2'),
       ('2', 'sandbox', 'changelog/changeset-2.15.xml', now(), 2, 'EXECUTED', 'addColumn', '3.3.2'),
       ('3', 'sandbox', 'changelog/changeset-7.2.xml', now(), 3, 'EXECUTED', 'createTable', '3.3.2');
