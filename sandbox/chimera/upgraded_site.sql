-- A site that began with an old release: its root does not have inumber 1.

UPDATE t_inodes SET inumber = inumber + 4710 WHERE inumber < 4711;
SELECT setval('t_inodes_inumber_seq', 4712);
