What a session of the bridge sets up for itself: functions with the site's constants in
them, staging tables for unchanged DPM rows, and tables for their projection. All of it
is temporary; the tables are emptied, in place, at the end of each transaction.

The planner knows nothing of tables that were filled a moment ago. Reading a table from end
to end is made dear and each join has an index to use, so that a wrong guess costs little. Not
by enable_seqscan = off: its penalty is so large that beside one scan which cannot be avoided
all other costs look equal, and the plan is then any plan.
plan_cache_mode also rules the checks of foreign keys: planned anew for each row, they would
cost as much as everything else together.

Braces are filled in by `stage.prepare`: offset, root_fileid, root_inumber (integers),
instance_id (hexadecimal digits) and timezone (a quoted literal).

-- name: settings
SET seq_page_cost = 100;
SET random_page_cost = 1.1;
SET jit = off;
SET plan_cache_mode = auto;
SET work_mem = '64MB';
SET temp_buffers = '64MB';
SET client_min_messages = warning;
SET search_path = public;

-- name: functions
CREATE FUNCTION pg_temp.inumber(fileid bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN fileid = {root_fileid} THEN {root_inumber} ELSE fileid + {offset} END$$;

CREATE FUNCTION pg_temp.fileid(inumber bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN inumber = {root_inumber} THEN {root_fileid} ELSE inumber - {offset} END$$;

CREATE FUNCTION pg_temp.pnfsid(fileid bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN fileid = {root_fileid} THEN '000000000000000000000000000000000000'
         ELSE '0000{instance_id}' || upper(lpad(to_hex(fileid), 16, '0')) END$$;

-- dCache reads wall-clock time of the head node.
CREATE FUNCTION pg_temp.local_time(epoch bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE AS
$$SELECT to_timestamp(epoch::double precision) AT TIME ZONE {timezone}$$;

-- A time that dCache can hold: none before 1970, none unknown.
CREATE FUNCTION pg_temp.valid_time(epoch bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN epoch >= 0 AND pg_temp.local_time(epoch) >= '1970-01-01'
         THEN pg_temp.local_time(epoch) END$$;

CREATE FUNCTION pg_temp.decoded(raw bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(raw, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN NULL;
END $$;

-- Only bytes that `escape` has to mark can be wrong, so plain ASCII never pays for the exception block.
CREATE FUNCTION pg_temp.utf8(raw bytea) RETURNS text LANGUAGE sql IMMUTABLE AS
$$SELECT CASE WHEN position('\' IN encode(raw, 'escape')) = 0 THEN encode(raw, 'escape')
         ELSE pg_temp.decoded(raw) END$$;

CREATE FUNCTION pg_temp.json_object(raw bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    parsed jsonb;
BEGIN
    parsed := convert_from(raw, 'UTF8')::jsonb;
    RETURN CASE WHEN jsonb_typeof(parsed) = 'object' THEN parsed END;
EXCEPTION WHEN data_exception OR character_not_in_repertoire OR untranslatable_character
            OR program_limit_exceeded OR statement_too_complex THEN
    RETURN NULL;
END $$;

-- name: tables
CREATE TEMP TABLE stage_entry (
    fileid bigint, parent bigint, name bytea, mode bigint, owner bigint, grp bigint, size numeric,
    atime bigint, mtime bigint, ctime bigint, status bytea, csumtype bytea, csumvalue bytea,
    acl bytea, xattr bytea
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE stage_replica (
    rowid bigint, fileid bigint, status bytea, poolname bytea, host bytea, fs bytea, sfn bytea,
    claimed boolean
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE stage_symlink (fileid bigint PRIMARY KEY, linkname bytea) ON COMMIT DELETE ROWS;

CREATE TEMP TABLE scope (fileid bigint PRIMARY KEY) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE acl_form (
    acl bytea, mode bigint, imode integer, reason text
) ON COMMIT DELETE ROWS;
-- By hash: an ACL column may hold more than an entry of a B-tree can.
CREATE INDEX ON acl_form USING hash (acl);
CREATE TEMP TABLE acl_ace (
    acl bytea, mode bigint, ace_order integer, rs_type integer, type integer, access_msk integer,
    who integer, who_id integer, flags integer
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE checksum_kind (name text PRIMARY KEY, legacy text, itype integer, digits integer);

CREATE TEMP TABLE projected_replica (
    rowid bigint, fileid bigint, pool text, reason text, detail text, odd_host boolean
) ON COMMIT DELETE ROWS;
CREATE INDEX ON projected_replica (rowid);
CREATE TEMP TABLE projected_location (fileid bigint, pool text, rowid bigint) ON COMMIT DELETE ROWS;
CREATE INDEX ON projected_location (fileid);
CREATE TEMP TABLE projected_entry (
    fileid bigint PRIMARY KEY, inumber bigint, parent bigint, iparent bigint, raw_name bytea, name text, itype integer, imode integer, uid integer,
    gid integer, size bigint, iio integer, ctime timestamp, atime timestamp, mtime timestamp,
    crtime timestamp, target bytea, acl bytea, mode bigint, reason text, detail text
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE projected_checksum (
    fileid bigint, itype integer, isum text, name text, reason text
) ON COMMIT DELETE ROWS;
CREATE INDEX ON projected_checksum (fileid);
CREATE TEMP TABLE projected_fact (
    fileid bigint, reason text, subject text, detail text
) ON COMMIT DELETE ROWS;
CREATE TEMP VIEW reported AS
SELECT fileid, 'entry' AS scope, reason, '' AS subject, detail, parent, raw_name AS name
  FROM projected_entry WHERE reason IS NOT NULL
UNION ALL
SELECT f.fileid, 'fact', f.reason, f.subject, f.detail, p.parent, p.raw_name
  FROM projected_fact f JOIN projected_entry p ON p.fileid = f.fileid AND p.reason IS NULL;
CREATE TEMP TABLE parent_state (parent bigint PRIMARY KEY, present boolean, anchor bigint)
    ON COMMIT DELETE ROWS;
CREATE TEMP TABLE present_dir (fileid bigint PRIMARY KEY) ON COMMIT DELETE ROWS;

-- name: apply_tables
CREATE TEMP TABLE gone (inumber bigint PRIMARY KEY, is_dir boolean, in_scope boolean) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE name_change (iparent bigint, ichild bigint, is_dir boolean, change integer)
    ON COMMIT DELETE ROWS;
CREATE TEMP TABLE token_dir (inumber bigint PRIMARY KEY, s_token bytea, name text, vo text)
    ON COMMIT DELETE ROWS;
CREATE TEMP TABLE wanted_origin (inumber bigint, tag text, value text, PRIMARY KEY (inumber, tag))
    ON COMMIT DELETE ROWS;
CREATE TEMP TABLE retag (inumber bigint PRIMARY KEY) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE wanted_tag (
    inumber bigint, tag text, itagid bigint, isorign integer, PRIMARY KEY (inumber, tag)
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE tag_use (itagid bigint, change bigint) ON COMMIT DELETE ROWS;
CREATE TEMP VIEW pool_map AS
SELECT server, fs, poolname, dcache_pool AS pool, lower(encode(server, 'escape')) AS server_key,
       rtrim(encode(fs, 'escape'), '/') || '/' AS prefix,
       count(*) OVER (PARTITION BY server, fs) = 1 AS sole
  FROM dome_bridge.dpm_fs;
CREATE TEMP VIEW known_dir AS
SELECT inumber FROM t_inodes
 WHERE itype = 16384 AND ipnfsid = pg_temp.pnfsid(pg_temp.fileid(inumber));

-- The planner knows nothing of temporary tables: asked row by row, the view would be read as often.
CREATE TEMP TABLE wanted_link (fileid bigint, pool integer, pfn text, size bigint, PRIMARY KEY (fileid, pool))
    ON COMMIT DELETE ROWS;
CREATE TEMP VIEW projected_link AS
SELECT l.fileid, k.id AS pool, substr(r.detail, strpos(r.detail, ':') + 1) AS pfn, p.size
  FROM projected_location l
  JOIN projected_entry p ON p.fileid = l.fileid AND p.reason IS NULL AND p.itype = 32768
  JOIN projected_replica r ON r.rowid = l.rowid AND r.fileid = l.fileid
  JOIN dome_bridge.link_pool k ON k.pool = l.pool;
CREATE TEMP VIEW disk_finding AS SELECT fileid, pfn, size FROM dome_bridge.disk_finding;

-- name: check_tables
CREATE TEMP TABLE disk_finding (fileid bigint, pfn text, size bigint);
CREATE TEMP TABLE pool_map (
    server bytea, fs bytea, poolname bytea, pool text, server_key text, prefix text, sole boolean
);
CREATE TEMP TABLE known_dir (inumber bigint PRIMARY KEY);
CREATE TEMP TABLE tree (fileid bigint PRIMARY KEY, parent bigint, raw_name bytea, reason text, detail text);
