-- setup
CREATE SCHEMA "S p ""a"" ce";
CREATE SCHEMA "日本";
CREATE TABLE "S p ""a"" ce"."Größe" ("ID" int PRIMARY KEY, "select" text, "a""b'c\d" text, "😀" text);
CREATE TABLE "日本".t (id int PRIMARY KEY);
CREATE TABLE same (id int PRIMARY KEY);
CREATE TABLE "Same" (id int PRIMARY KEY);
-- changes
INSERT INTO "S p ""a"" ce"."Größe" VALUES (1, 'a', 'b', 'c');
UPDATE "S p ""a"" ce"."Größe" SET "ID" = 2;
INSERT INTO "日本".t VALUES (1);
INSERT INTO same VALUES (1);
INSERT INTO "Same" VALUES (2);
