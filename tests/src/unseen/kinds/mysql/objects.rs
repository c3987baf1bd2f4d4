//! Objects without rows of their own.

use super::super::{Kind, harmless, major, minor};
use crate::unseen::Engine::{Mariadb, Mysql};

pub const KINDS: &[Kind] = &[
    minor("index-new", &["CREATE INDEX wide_b ON wide (b)"]),
    minor("index-prefix", &["CREATE INDEX wide_c ON wide (c(10))"]),
    minor("index-dropped", &["DROP INDEX wide_a ON wide"]),
    minor("index-renamed", &["ALTER TABLE wide RENAME INDEX wide_a TO wide_aa"]),
    minor("index-hidden", &["ALTER TABLE wide ALTER INDEX wide_a INVISIBLE"]).of(Mysql),
    minor("index-ignored", &["ALTER TABLE wide ALTER INDEX wide_a IGNORED"]).of(Mariadb),
    minor("index-expression", &["CREATE INDEX wide_low ON wide ((lower(b)))"]).of(Mysql),
    minor("index-descending", &["CREATE INDEX wide_down ON wide (a DESC)"]),
    major("index-fulltext", &["CREATE FULLTEXT INDEX wide_words ON wide (b)"]),
    major("index-unique", &["CREATE UNIQUE INDEX item_once ON item (title)"]),
    major("foreign-key-new", &["ALTER TABLE wide ADD CONSTRAINT wide_self FOREIGN KEY (id) REFERENCES other (id)"]),
    major("foreign-key-dropped", &["ALTER TABLE orders DROP FOREIGN KEY orders_item"]),
    major("foreign-key-cascades", &[
        "ALTER TABLE orders DROP FOREIGN KEY orders_item",
        "ALTER TABLE orders ADD CONSTRAINT orders_item FOREIGN KEY (item) REFERENCES item (id) ON DELETE CASCADE",
        "DELETE FROM item WHERE id = 7",
    ]),
    major("check-new", &["ALTER TABLE item ADD CONSTRAINT qty_sane CHECK (qty >= 0)"]),
    major("check-dropped", &["ALTER TABLE wide DROP CONSTRAINT wide_d"]),
    major("check-changed", &[
        "ALTER TABLE wide DROP CONSTRAINT wide_d; ALTER TABLE wide ADD CONSTRAINT wide_d CHECK (d < 6000)",
    ]),
    major("check-not-enforced", &["ALTER TABLE wide ALTER CHECK wide_d NOT ENFORCED"]).of(Mysql),
    major("check-of-column", &["ALTER TABLE item MODIFY qty int DEFAULT 0 CHECK (qty > -5)"]),
    major("view-new", &["CREATE VIEW cheap AS SELECT id FROM item WHERE cost < 5"]),
    major("view-replaced", &["CREATE OR REPLACE VIEW dear AS SELECT id, title FROM item WHERE cost > 40"]),
    major("view-dropped", &["DROP VIEW dear"]),
    major("view-definer", &["ALTER DEFINER = 'clerk'@'%' VIEW dear AS SELECT id, title FROM item WHERE cost > 5"]),
    major("view-security", &["ALTER SQL SECURITY INVOKER VIEW dear AS SELECT id, title FROM item WHERE cost > 5"]),
    major("view-checked", &["ALTER VIEW dear AS SELECT id, title FROM item WHERE cost > 5 WITH CASCADED CHECK OPTION"]),
    major("view-algorithm", &["ALTER ALGORITHM = TEMPTABLE VIEW dear AS SELECT id, title FROM item WHERE cost > 5"]),
    major("trigger-new", &["CREATE TRIGGER again BEFORE UPDATE ON customer FOR EACH ROW SET NEW.note = 'updated'"]),
    major("trigger-dropped", &["DROP TRIGGER stamped"]),
    major("trigger-replaced", &[
        "DROP TRIGGER stamped; CREATE TRIGGER stamped BEFORE INSERT ON customer FOR EACH ROW SET NEW.note = 'other'",
    ]),
    major("trigger-before-another", &[
        "CREATE TRIGGER earlier BEFORE INSERT ON customer FOR EACH ROW PRECEDES stamped SET NEW.note = 'earlier'",
    ]),
    major("trigger-definer", &[
        "DROP TRIGGER stamped; CREATE DEFINER = 'clerk'@'%' TRIGGER stamped BEFORE INSERT ON customer FOR EACH ROW \
         SET NEW.note = coalesce(NEW.note, 'stamped')",
    ]),
    major("trigger-sql-mode", &[
        "SET sql_mode = 'ANSI_QUOTES'; DROP TRIGGER stamped; CREATE TRIGGER stamped BEFORE INSERT ON customer FOR EACH ROW \
         SET NEW.note = coalesce(NEW.note, 'stamped')",
    ]),
    major("procedure-new", &["CREATE PROCEDURE sweep() DELETE FROM item WHERE false"]),
    major("procedure-dropped", &["DROP PROCEDURE tidy"]),
    major("procedure-security", &["ALTER PROCEDURE tidy SQL SECURITY INVOKER"]),
    major("procedure-parameter", &["DROP PROCEDURE tidy; CREATE PROCEDURE tidy(IN n int) DELETE FROM item WHERE id < 0"]),
    minor("procedure-comment", &["ALTER PROCEDURE tidy COMMENT 'other'"]),
    major("procedure-sql-mode", &[
        "SET sql_mode = 'PIPES_AS_CONCAT'; DROP PROCEDURE tidy; CREATE PROCEDURE tidy() DELETE FROM item WHERE id < 0",
    ]),
    major("procedure-collation", &[
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin; DROP PROCEDURE tidy; CREATE PROCEDURE tidy() DELETE FROM item WHERE id < 0",
    ]),
    major("function-new", &["CREATE FUNCTION discount(n int) RETURNS int DETERMINISTIC RETURN n * 0.9"]),
    major("function-replaced", &[
        "DROP FUNCTION tax; CREATE FUNCTION tax(n int) RETURNS int DETERMINISTIC RETURN n * 3",
    ]),
    major("function-type", &["DROP FUNCTION tax; CREATE FUNCTION tax(n int) RETURNS bigint DETERMINISTIC RETURN n * 2"]),
    major("function-called-and-written", &[
        "DROP FUNCTION tax; CREATE FUNCTION tax(n int) RETURNS int DETERMINISTIC RETURN n * 3; UPDATE wide SET a = tax(id) WHERE id < 40",
    ]),
    major("function-aggregate", &[
        "DELIMITER //\nCREATE AGGREGATE FUNCTION many(x int) RETURNS int BEGIN DECLARE n int DEFAULT 0; \
         DECLARE CONTINUE HANDLER FOR NOT FOUND RETURN n; LOOP FETCH GROUP NEXT ROW; SET n = n + 1; END LOOP; END//\nDELIMITER ;",
    ])
    .of(Mariadb),
    major("package-new", &[
        "SET sql_mode = ORACLE;\nDELIMITER //\nCREATE PACKAGE tools AS FUNCTION one RETURN INT; END//\n\
         CREATE PACKAGE BODY tools AS FUNCTION one RETURN INT AS BEGIN RETURN 1; END; END//\nDELIMITER ;",
    ])
    .of(Mariadb),
    major("event-new", &["CREATE EVENT weekly ON SCHEDULE EVERY 1 WEEK STARTS '2035-01-01' DO DELETE FROM item WHERE false"]),
    major("event-disabled", &["ALTER EVENT yearly DISABLE"]),
    major("event-schedule", &["ALTER EVENT yearly ON SCHEDULE EVERY 2 YEAR STARTS '2036-01-01'"]),
    major("event-replaced", &["ALTER EVENT yearly DO DELETE FROM item WHERE id < -1"]),
    minor("event-renamed", &["ALTER EVENT yearly RENAME TO annual"]),
    minor("event-dropped", &["DROP EVENT yearly"]),
    major("event-definer", &["ALTER DEFINER = 'clerk'@'%' EVENT yearly COMMENT 'by another'"]),
    major("sequence-new", &["CREATE SEQUENCE counter START WITH 500"]).of(Mariadb),
    harmless("sequence-moved", &["SELECT setval(ticket, 5000); SELECT nextval(ticket)"]).of(Mariadb),
    major("sequence-increment", &["ALTER SEQUENCE ticket INCREMENT BY 10"]).of(Mariadb),
    major("sequence-cycle", &["ALTER SEQUENCE ticket MAXVALUE 9000 CYCLE"]).of(Mariadb),
    major("sequence-cache", &["ALTER SEQUENCE ticket CACHE 7"]).of(Mariadb),
    major("sequence-restarted", &["ALTER SEQUENCE ticket RESTART 7000"]).of(Mariadb),
    major("sequence-dropped", &["DROP SEQUENCE ticket"]).of(Mariadb),
    major("database-charset", &["ALTER DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"]),
    major("database-charset-then-table", &[
        "ALTER DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
        "CREATE TABLE late (id int PRIMARY KEY, v varchar(9)); INSERT INTO late VALUES (1, 'é')",
    ]),
    minor("database-comment", &["ALTER DATABASE shop COMMENT 'ours'"]).of(Mariadb),
    major("database-read-only", &["ALTER DATABASE shop READ ONLY = 1"]).of(Mysql),
];
