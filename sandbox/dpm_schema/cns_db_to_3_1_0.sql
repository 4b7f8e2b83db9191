-- Takes a fresh name server schema back to 3.1.0, which has no extended attributes.

ALTER TABLE Cns_file_metadata DROP COLUMN xattr;

ALTER TABLE Cns_file_replica DROP COLUMN xattr;

ALTER TABLE Cns_userinfo DROP COLUMN xattr;

ALTER TABLE Cns_groupinfo DROP COLUMN xattr;

UPDATE schema_version SET major = 3, minor = 1, patch = 0;
