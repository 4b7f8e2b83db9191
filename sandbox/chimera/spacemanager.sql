-- Database of dCache's space manager, 7.2 to 12.0, before the space manager's first start.
-- Written anew for tests and the demo: on a site dCache makes its tables itself.

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
INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, description, liquibase)
VALUES ('1', 'sandbox', 'db/spacemanager.changelog-2.9.xml', now(), 1, 'EXECUTED', 'createTable', '3.3.2');

-- Empty until the space manager's first start.
CREATE TABLE srmaccesslatency (
    id   integer PRIMARY KEY,
    name varchar(32672) NOT NULL
);

CREATE TABLE srmretentionpolicy (
    id   integer PRIMARY KEY,
    name varchar(32672) NOT NULL
);

CREATE TABLE srmlinkgroup (
    id                    bigserial      PRIMARY KEY,
    name                  varchar(32672) NOT NULL UNIQUE,
    availablespaceinbytes bigint         NOT NULL,
    reservedspaceinbytes  bigint         NOT NULL,
    lastupdatetime        bigint,
    onlineallowed         integer,
    nearlineallowed       integer,
    replicaallowed        integer,
    outputallowed         integer,
    custodialallowed      integer
);

CREATE TABLE srmlinkgroupvos (
    vogroup     varchar(32672) NOT NULL,
    vorole      varchar(32672) NOT NULL,
    linkgroupid bigint         NOT NULL REFERENCES srmlinkgroup (id),
    PRIMARY KEY (vogroup, vorole, linkgroupid)
);

CREATE TABLE srmspace (
    id                    bigserial PRIMARY KEY,
    vogroup               varchar(32672),
    vorole                varchar(32672),
    retentionpolicy       integer REFERENCES srmretentionpolicy (id),
    accesslatency         integer REFERENCES srmaccesslatency (id),
    linkgroupid           bigint  NOT NULL REFERENCES srmlinkgroup (id),
    sizeinbytes           bigint  NOT NULL,
    creationtime          bigint  NOT NULL,
    expirationtime        bigint,
    description           varchar(32672),
    state                 integer NOT NULL,
    usedspaceinbytes      bigint  NOT NULL,
    allocatedspaceinbytes bigint  NOT NULL
);

CREATE TABLE srmspacefile (
    id                 bigserial PRIMARY KEY,
    vogroup            varchar(32672),
    vorole             varchar(32672),
    spacereservationid bigint  NOT NULL REFERENCES srmspace (id),
    sizeinbytes        bigint  NOT NULL,
    creationtime       bigint  NOT NULL,
    pnfsid             varchar(36) UNIQUE,
    state              integer NOT NULL
);

-- The first automatic id is 2.
SELECT setval('srmlinkgroup_id_seq', 1), setval('srmspace_id_seq', 1), setval('srmspacefile_id_seq', 1);

-- Reservations take their size from the link group. A reservation's unused part is reserved; what
-- it uses has left the free space, so `available` moves with the size alone while it lasts.

CREATE FUNCTION book_in_link_group(linkgroup bigint, reserved bigint, taken bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE srmlinkgroup
       SET reservedspaceinbytes = reservedspaceinbytes + reserved,
           availablespaceinbytes = availablespaceinbytes - taken
     WHERE id = linkgroup AND (taken <= 0 OR availablespaceinbytes >= taken);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'not enough space in link group %', linkgroup USING ERRCODE = '23D01';
    END IF;
END;
$$;

CREATE FUNCTION check_new_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.usedspaceinbytes <> 0 OR NEW.allocatedspaceinbytes <> 0 THEN
        RAISE EXCEPTION 'a new reservation has neither used nor allocated space' USING ERRCODE = '23D02';
    END IF;
    IF NEW.state = 0 THEN
        PERFORM book_in_link_group(NEW.linkgroupid, NEW.sizeinbytes, NEW.sizeinbytes);
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION enlarge_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.sizeinbytes := greatest(NEW.sizeinbytes, NEW.allocatedspaceinbytes + NEW.usedspaceinbytes);
    RETURN NEW;
END;
$$;

CREATE FUNCTION rebook_space() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_rest bigint := OLD.sizeinbytes - OLD.usedspaceinbytes;
    new_rest bigint := NEW.sizeinbytes - NEW.usedspaceinbytes;
BEGIN
    IF NEW.linkgroupid <> OLD.linkgroupid THEN
        RAISE EXCEPTION 'a reservation cannot change its link group' USING ERRCODE = '23D03';
    END IF;
    IF OLD.state = 0 AND NEW.state = 0 THEN
        PERFORM book_in_link_group(NEW.linkgroupid, new_rest - old_rest, NEW.sizeinbytes - OLD.sizeinbytes);
    ELSIF OLD.state = 0 THEN
        PERFORM book_in_link_group(NEW.linkgroupid, -old_rest, -old_rest);
    ELSIF NEW.state = 0 THEN
        PERFORM book_in_link_group(NEW.linkgroupid, new_rest, new_rest);
    END IF;
    RETURN NULL;
END;
$$;

CREATE FUNCTION return_space() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rest bigint := OLD.sizeinbytes - OLD.usedspaceinbytes;
BEGIN
    IF OLD.state = 0 THEN
        PERFORM book_in_link_group(OLD.linkgroupid, -rest, -rest);
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER tgr_srmspace_insert AFTER INSERT ON srmspace FOR EACH ROW EXECUTE PROCEDURE check_new_space();
CREATE TRIGGER tgr_srmspace_enlarge BEFORE UPDATE ON srmspace FOR EACH ROW EXECUTE PROCEDURE enlarge_space();
CREATE TRIGGER tgr_srmspace_update AFTER UPDATE ON srmspace FOR EACH ROW EXECUTE PROCEDURE rebook_space();
CREATE TRIGGER tgr_srmspace_delete AFTER DELETE ON srmspace FOR EACH ROW EXECUTE PROCEDURE return_space();

-- Files: states 0 and 1 are allocated space of their reservation, state 2 is used space.

CREATE FUNCTION book_in_space(space bigint, state integer, size bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE srmspace
       SET allocatedspaceinbytes = allocatedspaceinbytes + CASE WHEN $2 IN (0, 1) THEN size ELSE 0 END,
           usedspaceinbytes = usedspaceinbytes + CASE WHEN $2 = 2 THEN size ELSE 0 END
     WHERE id = space;
$$;

CREATE FUNCTION book_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM book_in_space(OLD.spacereservationid, OLD.state, -OLD.sizeinbytes);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM book_in_space(NEW.spacereservationid, NEW.state, NEW.sizeinbytes);
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER tgr_srmspacefile AFTER INSERT OR UPDATE OR DELETE ON srmspacefile
    FOR EACH ROW EXECUTE PROCEDURE book_file();
