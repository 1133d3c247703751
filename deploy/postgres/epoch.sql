-- The epoch inside a database: a writer that names another one is refused by the database itself.
--
-- Why a sequence and not a row: reading it sees what is so now in every isolation level, needs no
-- lock on a row and leaves nothing to vacuum. Why the lock: a transaction that was let in keeps it,
-- shared, until its end; a new epoch takes it alone, so none that was let in by the last epoch is
-- still open when the next one is there.
--
-- on-serve runs it in all databases, once; new ones have it from template1. Repeatable.
BEGIN;
CREATE SCHEMA IF NOT EXISTS cfgsvc;
CREATE SEQUENCE IF NOT EXISTS cfgsvc.epoch AS bigint MINVALUE 0 START 0;
REVOKE ALL ON SEQUENCE cfgsvc.epoch FROM PUBLIC;
GRANT USAGE ON SCHEMA cfgsvc TO PUBLIC;
GRANT SELECT ON SEQUENCE cfgsvc.epoch TO PUBLIC;

-- The epoch, if it is N; else an error, and the transaction writes nothing.
CREATE OR REPLACE FUNCTION cfgsvc.at_epoch(n bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known bigint;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(1667655523, 1);
    SELECT last_value INTO known FROM cfgsvc.epoch;
    IF known IS DISTINCT FROM n THEN
        RAISE EXCEPTION 'epoch % is not the epoch of this database, which is %', n, known
            USING ERRCODE = 'CS001', HINT = 'Ask the group who serves, and in which epoch.';
    END IF;
    RETURN n;
END $$;

-- For on-serve: from now on it is N. It does not go back.
CREATE OR REPLACE FUNCTION cfgsvc.begin_epoch(n bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known bigint;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(1667655523, 1);
    SELECT last_value INTO known FROM cfgsvc.epoch;
    IF n IS NULL OR n OPERATOR(pg_catalog.<) known THEN
        RAISE EXCEPTION 'epoch % is before that of this database, which is %', n, known
            USING ERRCODE = 'CS001', HINT = 'The group was restored, or this is another database.';
    END IF;
    RETURN pg_catalog.setval('cfgsvc.epoch', n);
END $$;
REVOKE ALL ON FUNCTION cfgsvc.begin_epoch(bigint) FROM PUBLIC;
COMMIT;
