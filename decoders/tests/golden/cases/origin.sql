-- setup
CREATE TABLE t (id int PRIMARY KEY);
SELECT pg_replication_origin_create('far "away"');
-- changes
SELECT pg_replication_origin_session_setup('far "away"');
BEGIN;
SELECT pg_replication_origin_xact_setup('16/B374D848', '2000-01-01 00:00+00');
INSERT INTO t VALUES (1);
COMMIT;
SELECT pg_replication_origin_session_reset();
INSERT INTO t VALUES (2);
