-- 8.2 (8.2.17): a path with its symbolic links resolved

CREATE FUNCTION resolve_path(root bigint, path varchar) RETURNS varchar LANGUAGE sql STABLE AS
$$ SELECT inumber2path(path2inumber(root, CASE WHEN path LIKE '/%' THEN substr(path, 2) ELSE path END::varchar)) $$;

INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, description, liquibase)
VALUES ('4', 'sandbox', 'changelog/changeset-8.2.xml', now(), 4, 'EXECUTED', 'createProcedure', '3.3.2');
