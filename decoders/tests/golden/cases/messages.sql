-- since: 14
-- plugin: messages
-- setup
CREATE TABLE t (id int PRIMARY KEY);
-- changes
BEGIN;
SELECT pg_logical_emit_message(true, 'cutover.marker', 'in a transaction');
SELECT pg_logical_emit_message(false, 'cutover.heartbeat', 'at once');
INSERT INTO t VALUES (1);
COMMIT;
SELECT pg_logical_emit_message(true, '', '\x00ff'::bytea);
