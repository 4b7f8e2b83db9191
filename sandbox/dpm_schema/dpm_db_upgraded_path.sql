-- A disk pool manager schema that reached 3.5.0 by upgrade: the column `path` was
-- added without BINARY, so it compares without regard to case.

ALTER TABLE dpm_space_reserv MODIFY path VARCHAR(255);
