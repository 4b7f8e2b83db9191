-- DPM name server, schema 3.2.0, as a fresh site has it.
-- Names no schema: run it with the target database selected. Column sets follow the
-- character set of that database (latin1 on nearly all sites), BINARY its _bin collation.

CREATE TABLE schema_version (
    major INTEGER NOT NULL,
    minor INTEGER NOT NULL,
    patch INTEGER NOT NULL
) ENGINE=InnoDB;

CREATE TABLE Cns_class_metadata (
    rowid INTEGER UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    classid INTEGER,
    name VARCHAR(15) BINARY,
    owner_uid INTEGER,
    gid INTEGER,
    min_filesize INTEGER,
    max_filesize INTEGER,
    flags INTEGER,
    maxdrives INTEGER,
    max_segsize INTEGER,
    migr_time_interval INTEGER,
    mintime_beforemigr INTEGER,
    nbcopies INTEGER,
    nbdirs_using_class INTEGER,
    retenp_on_disk INTEGER,
    UNIQUE KEY pk_classid (classid),
    UNIQUE KEY classname (name)
) ENGINE=InnoDB;

CREATE TABLE Cns_file_metadata (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    fileid BIGINT UNSIGNED,
    parent_fileid BIGINT UNSIGNED,
    guid CHAR(36) BINARY,
    name VARCHAR(255) BINARY,
    filemode INTEGER UNSIGNED,
    nlink INTEGER,
    owner_uid INTEGER UNSIGNED,
    gid INTEGER UNSIGNED,
    filesize BIGINT UNSIGNED,
    atime INTEGER,
    mtime INTEGER,
    ctime INTEGER,
    fileclass SMALLINT,
    status CHAR(1) BINARY,
    csumtype VARCHAR(2) BINARY,
    csumvalue VARCHAR(32) BINARY,
    acl BLOB,
    xattr TEXT,
    UNIQUE KEY pk_fileid (fileid),
    UNIQUE KEY file_full_id (parent_fileid, name),
    UNIQUE KEY file_guid (guid),
    KEY PARENT_FILEID_IDX (parent_fileid)
) ENGINE=InnoDB;

CREATE TABLE Cns_file_replica (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    fileid BIGINT UNSIGNED,
    nbaccesses BIGINT UNSIGNED,
    ctime INTEGER,
    atime INTEGER,
    ptime INTEGER,
    ltime INTEGER,
    r_type CHAR(1) BINARY,
    status CHAR(1) BINARY,
    f_type CHAR(1) BINARY,
    setname VARCHAR(36) BINARY,
    poolname VARCHAR(15) BINARY,
    host VARCHAR(63) BINARY,
    fs VARCHAR(79) BINARY,
    sfn BLOB,
    xattr TEXT,
    KEY replica_id (fileid),
    KEY replica_host (host),
    KEY replica_sfn (sfn(255)),
    CONSTRAINT fk_r_fileid FOREIGN KEY (fileid) REFERENCES Cns_file_metadata (fileid)
) ENGINE=InnoDB;

CREATE TABLE Cns_symlinks (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    fileid BIGINT UNSIGNED,
    linkname BLOB,
    UNIQUE KEY pk_l_fileid (fileid),
    KEY linkname_idx (linkname(255)),
    CONSTRAINT fk_l_fileid FOREIGN KEY (fileid) REFERENCES Cns_file_metadata (fileid)
) ENGINE=InnoDB;

CREATE TABLE Cns_user_metadata (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    u_fileid BIGINT UNSIGNED,
    comments VARCHAR(255) BINARY,
    UNIQUE KEY pk_u_fileid (u_fileid),
    CONSTRAINT fk_u_fileid FOREIGN KEY (u_fileid) REFERENCES Cns_file_metadata (fileid)
) ENGINE=InnoDB;

CREATE TABLE Cns_userinfo (
    rowid INTEGER UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    userid INTEGER,
    username VARCHAR(255) BINARY,
    user_ca VARCHAR(255) BINARY,
    banned INTEGER,
    xattr TEXT,
    UNIQUE KEY map_username (username)
) ENGINE=InnoDB;

CREATE TABLE Cns_groupinfo (
    rowid INTEGER UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    gid INTEGER,
    groupname VARCHAR(255) BINARY,
    banned INTEGER,
    xattr TEXT,
    UNIQUE KEY map_groupname (groupname)
) ENGINE=InnoDB;

CREATE TABLE Cns_unique_id (id BIGINT UNSIGNED) ENGINE=InnoDB;

CREATE TABLE Cns_unique_uid (id INTEGER UNSIGNED) ENGINE=InnoDB;

CREATE TABLE Cns_unique_gid (id INTEGER UNSIGNED) ENGINE=InnoDB;

INSERT INTO schema_version (major, minor, patch) VALUES (3, 2, 0);

INSERT INTO Cns_unique_id (id) VALUES (1);

INSERT INTO Cns_unique_uid (id) VALUES (100);

INSERT INTO Cns_unique_gid (id) VALUES (100);

INSERT INTO Cns_file_metadata
    (fileid, parent_fileid, guid, name, filemode, nlink, owner_uid, gid, filesize,
     atime, mtime, ctime, fileclass, status, csumtype, csumvalue, acl, xattr)
VALUES
    (1, 0, NULL, '/', 16877, 0, 0, 0, 0,
     UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), 0, '-', '', '', '', '{}');
