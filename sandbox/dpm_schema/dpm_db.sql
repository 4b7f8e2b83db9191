-- DPM disk pool manager, schema 3.5.0, as a fresh site has it.
-- Names no schema: run it with the target database selected.

CREATE TABLE schema_version_dpm (
    major INTEGER NOT NULL,
    minor INTEGER NOT NULL,
    patch INTEGER NOT NULL
) ENGINE=InnoDB;

CREATE TABLE dpm_pool (
    rowid INTEGER UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    poolname VARCHAR(15) BINARY,
    defsize BIGINT UNSIGNED,
    gc_start_thresh INTEGER,
    gc_stop_thresh INTEGER,
    def_lifetime INTEGER,
    defpintime INTEGER,
    max_lifetime INTEGER,
    maxpintime INTEGER,
    fss_policy VARCHAR(15) BINARY,
    gc_policy VARCHAR(15) BINARY,
    mig_policy VARCHAR(15) BINARY,
    rs_policy VARCHAR(15) BINARY,
    `groups` VARCHAR(255) BINARY,
    ret_policy CHAR(1) BINARY,
    s_type CHAR(1) BINARY,
    pooltype VARCHAR(32) BINARY,
    poolmeta TEXT,
    UNIQUE KEY pk_poolname (poolname)
) ENGINE=InnoDB;

CREATE TABLE dpm_fs (
    rowid INTEGER UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    poolname VARCHAR(15) BINARY,
    server VARCHAR(63) BINARY,
    fs VARCHAR(79) BINARY,
    status INTEGER,
    weight INTEGER,
    UNIQUE KEY pk_fs (poolname, server, fs),
    CONSTRAINT fk_fs FOREIGN KEY (poolname) REFERENCES dpm_pool (poolname)
) ENGINE=InnoDB;

CREATE TABLE dpm_space_reserv (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    s_token CHAR(36) BINARY,
    client_dn VARCHAR(255) BINARY,
    s_uid INTEGER,
    s_gid INTEGER,
    ret_policy CHAR(1) BINARY,
    ac_latency CHAR(1) BINARY,
    s_type CHAR(1) BINARY,
    u_token VARCHAR(255) BINARY,
    t_space BIGINT UNSIGNED,
    g_space BIGINT UNSIGNED,
    u_space BIGINT,
    poolname VARCHAR(15) BINARY,
    assign_time INTEGER,
    expire_time INTEGER,
    `groups` VARCHAR(255) BINARY,
    path VARCHAR(255) BINARY,
    UNIQUE KEY pk_s_token (s_token),
    UNIQUE KEY path (path)
) ENGINE=InnoDB;

CREATE TABLE dpm_pending_req (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    r_ordinal INTEGER UNSIGNED,
    r_token VARCHAR(36) BINARY,
    r_uid INTEGER,
    r_gid INTEGER,
    client_dn VARCHAR(255) BINARY,
    clienthost VARCHAR(63) BINARY,
    r_type CHAR(1) BINARY,
    u_token VARCHAR(255) BINARY,
    flags INTEGER,
    retrytime INTEGER,
    nbreqfiles INTEGER,
    ctime INTEGER,
    stime INTEGER,
    etime INTEGER,
    status INTEGER,
    errstring VARCHAR(255) BINARY,
    `groups` VARCHAR(255) BINARY,
    UNIQUE KEY pk_p_token (r_token)
) ENGINE=InnoDB;

CREATE TABLE dpm_req LIKE dpm_pending_req;

CREATE TABLE dpm_get_filereq (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    r_token VARCHAR(36) BINARY,
    f_ordinal INTEGER,
    r_uid INTEGER,
    from_surl BLOB,
    protocol VARCHAR(7) BINARY,
    lifetime INTEGER,
    f_type CHAR(1) BINARY,
    s_token CHAR(36) BINARY,
    ret_policy CHAR(1) BINARY,
    flags INTEGER,
    server VARCHAR(63) BINARY,
    pfn BLOB,
    actual_size BIGINT UNSIGNED,
    status INTEGER,
    errstring VARCHAR(255) BINARY,
    UNIQUE KEY pk_g_fullid (r_token, f_ordinal),
    KEY g_surl_idx (from_surl(255)),
    KEY g_pfn_idx (pfn(255))
) ENGINE=InnoDB;

CREATE TABLE dpm_put_filereq (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    r_token VARCHAR(36) BINARY,
    f_ordinal INTEGER,
    to_surl BLOB,
    protocol VARCHAR(7) BINARY,
    lifetime INTEGER,
    f_lifetime INTEGER,
    f_type CHAR(1) BINARY,
    s_token CHAR(36) BINARY,
    ret_policy CHAR(1) BINARY,
    ac_latency CHAR(1) BINARY,
    requested_size BIGINT UNSIGNED,
    server VARCHAR(63) BINARY,
    pfn BLOB,
    actual_size BIGINT UNSIGNED,
    status INTEGER,
    errstring VARCHAR(255) BINARY,
    UNIQUE KEY pk_p_fullid (r_token, f_ordinal),
    KEY p_surl_idx (to_surl(255)),
    KEY p_pfn_idx (pfn(255))
) ENGINE=InnoDB;

CREATE TABLE dpm_copy_filereq (
    rowid BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    r_token VARCHAR(36) BINARY,
    f_ordinal INTEGER,
    from_surl BLOB,
    to_surl BLOB,
    f_lifetime INTEGER,
    f_type CHAR(1) BINARY,
    s_token CHAR(36) BINARY,
    ret_policy CHAR(1) BINARY,
    ac_latency CHAR(1) BINARY,
    flags INTEGER,
    actual_size BIGINT UNSIGNED,
    status INTEGER,
    errstring VARCHAR(255) BINARY,
    UNIQUE KEY pk_c_fullid (r_token, f_ordinal),
    KEY c_from_surl_idx (from_surl(255)),
    KEY c_to_surl_idx (to_surl(255))
) ENGINE=InnoDB;

CREATE TABLE dpm_unique_id (id INTEGER UNSIGNED) ENGINE=InnoDB;

INSERT INTO schema_version_dpm (major, minor, patch) VALUES (3, 5, 0);
