-- Only where the server was built with libxml.
-- only: 15
-- setup
CREATE TABLE t (id int PRIMARY KEY, x xml);
-- changes
INSERT INTO t VALUES (1, '<?xml version="1.0" encoding="ISO-8859-1"?><ü a="1"/>'), (2, 'content <b/> &amp; more');
