create table mariadb(id int unsigned primary key, u uuid, i6 inet6, j json, g point, ge bigint as (id + 1) stored,
  gv bigint as (id + 2) virtual, inv int invisible default 5, ts timestamp(6) null, vc varchar(2000) compressed,
  vb varbinary(500) compressed, v0 varchar(255) compressed default 'dflt', v1 varchar(100) compressed, tc text compressed character set latin1, bc blob compressed, lc longtext compressed);
create table shapes(id int primary key, g geometry, p polygon, v varchar(5));
create table squeezed(id int primary key, v longtext, m mediumint) /* a comment so that the statement is long */;
