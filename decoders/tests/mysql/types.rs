//! Every column type with the values at its edges, on each server.

use tests::mysql::{Mysql, Version};

use super::oracle;

const COMMON: &str = "
create database if not exists t; use t; set sql_mode = '';
create table numbers(id int primary key, i1 tinyint, u1 tinyint unsigned, i2 smallint,
  u2 smallint unsigned, y year, i3 mediumint, u3 mediumint unsigned, i4 int, u4 int unsigned zerofill,
  i8 bigint, u8 bigint unsigned, f float, d double, d1 decimal(65,30), d2 decimal(5,0),
  d3 decimal(1,1), d4 decimal(18,9), d5 decimal(10,2) unsigned, b bool);
insert into numbers values
 (1,-128,255,-32768,65535,0,-8388608,16777215,-2147483648,4294967295,-9223372036854775808,
  18446744073709551615,1.1,1e308,-12345678901234567890123456789012345.123456789012345678901234567890,
  -99999,-0.9,-123456789.123456789,99999999.99,true),
 (2,127,0,32767,0,1901,8388607,0,2147483647,0,9223372036854775807,0,-16777217,-5e-324,0,0,0,0,0,false),
 (3,-1,1,-1,1,2155,-1,1,-1,1,-1,1,3.402823e38,1e15,-0.000000000000000000000000000001,1,0.1,
  0.000000001,0.01,2),
 (4,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null),
 (5,0,0,0,0,1970,0,0,0,0,0,0,1e-37,1e-15,99999999999999999999999999999999999.999999999999999999999999999999,
  99999,0.9,999999999.999999999,0,0),
 (6,1,2,3,4,2024,5,6,7,8,9,10,0.1,123456789012345.6,1,2,0.3,4,5,6),
 (7,1,2,3,4,2024,5,6,7,8,9,10,-0.0,1e-16,1,2,0.3,4,5,6),
 (8,1,2,3,4,2024,5,6,7,8,9,10,7e-10,1e14,1000000000,2,0.3,1000000,5,6),
 (9,1,2,3,4,2024,5,6,7,8,9,10,7e-10,0.1,1000000000000000000,2,0.3,100000000,5,6);
update numbers set i3 = -2, u8 = u8 - 1 where id = 1;
delete from numbers where id = 6;

create table times(id int primary key, t0 time, t1 time(1), t2 time(2), t3 time(3), t4 time(4),
  t5 time(5), t6 time(6), d date, p0 datetime, p1 datetime(1), p2 datetime(2), p3 datetime(3),
  p4 datetime(4), p5 datetime(5), p6 datetime(6), s0 timestamp null, s1 timestamp(1) null,
  s2 timestamp(2) null, s3 timestamp(3) null, s4 timestamp(4) null, s5 timestamp(5) null,
  s6 timestamp(6) null);
insert into times values
 (1,'-00:00:01','-00:00:00.1','-00:00:01.50','-00:00:00.001','-01:02:03.0405','-00:00:00.00001',
  '-838:59:59.000000','0000-00-00','0000-00-00 00:00:00','2024-00-00 00:00:00.1','2024-01-00 00:00:00',
  '9999-12-31 23:59:59.999','1000-01-01 00:00:00.0001','2024-02-29 12:34:56.78901',
  '2024-02-29 12:34:56.789012','1970-01-01 00:00:01','1970-01-01 00:00:00.1','2000-02-29 01:02:03.99',
  '2038-01-19 03:14:07.999','2001-01-01 00:00:00.0001','2001-01-01 00:00:00.00001',
  '2038-01-19 03:14:07.999999'),
 (2,'838:59:59','838:59:59','-12:34:56.78','12:34:56.001','100:00:00.9999','-838:59:58.99999',
  '-00:00:00.000001','2024-00-00','9999-12-31 23:59:59','0000-00-00 00:00:00','0001-01-01 00:00:00',
  '2024-01-31 00:00:00.5','0000-00-00 00:00:00','0000-00-00 00:00:00','0000-00-00 00:00:00',
  '0000-00-00 00:00:00','0000-00-00 00:00:00','0000-00-00 00:00:00','0000-00-00 00:00:00',
  '0000-00-00 00:00:00','0000-00-00 00:00:00','0000-00-00 00:00:00'),
 (3,'00:00:00','00:00:00','00:00:00','-23:59:59.999','00:00:00','00:00:00','838:59:58.999999',
  '9999-12-31',null,null,null,null,null,null,null,null,null,null,null,null,null,null),
 (4,null,null,null,null,null,null,null,'0001-01-01',null,null,null,null,null,null,null,null,null,null,
  null,null,null,null);
update times set t2 = '-00:00:00.01', t1 = '-838:59:58.9' where id = 2;

create table texts(id int primary key, v1 varchar(20) character set latin1, c1 char(10) character set utf8mb4,
  c2 char(255) character set utf8mb4, v2 varchar(300) character set cp1251, t1 text character set latin1,
  t2 mediumtext character set utf8mb4, tt tinytext character set koi8r, lt longtext character set utf16,
  u2 varchar(10) character set ucs2, u4 varchar(10) character set utf32, le varchar(10) character set utf16le,
  u3 char(5) character set utf8mb3, b1 binary(8), b2 varbinary(300), bl blob, lb longblob, tb tinyblob,
  e1 enum('a','b','ü') character set utf8mb4, e2 enum('ä','ö','x,y') character set latin1,
  s1 set('x','y','z'), s2 set('é','è') character set latin1, bt bit(1), b10 bit(10), b64 bit(64));
insert into texts values
 (1,_latin1 x'e980819f','a  ',repeat('ü',255),_cp1251 x'c0ffa8',_latin1 x'e9','𝄞\\t\\n\\\\\\0x',_koi8r x'c1ff',
  '𝄞ü','ü',_utf32 x'0001d11e','𝄞','ü€',unhex('0102000000000000'),unhex('00ff00'),'b',unhex('00'),'',
  'ü','ö','x,z','é,è',b'1',b'1000000001',0xffffffffffffffff),
 (2,'','','','','','','','','','','','','','','','','','','','','',b'0',b'0',0),
 (3,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,
  null,null,null,null),
 (4,'x','  x','y',repeat('я',300),repeat('é',60000),repeat('ж',70000),'z','w','v','u','t','s',
  unhex('ffffffffffffff00'),repeat('q',300),repeat('b',65535),repeat('c',70000),'d','a','x,y','y','è',b'1',b'11',1);
update texts set e1 = 'nonsense', b1 = unhex('00'), t2 = concat(t2, '!') where id = 4;
";

const MYSQL: &str = r#"
create table jsons(id int primary key, j json, k json);
insert into jsons values
 (1,'{"a":1.10,"b":1e3,"c":100000000000000000000,"d":-0.0,"e":"\\u0000x\\u001f\\u007f","f":{"":[]}, "g":0.1, "h":1.0}','[]'),
 (2,json_object('d',cast(1.50 as decimal(10,2)),'t',cast('-01:02:03.5' as time(1)),'dt',
   cast('2024-01-02 03:04:05.678' as datetime(3)),'ts',cast('2024-01-02' as date),'y',cast(2024 as year),
   'bin',cast('abc' as binary),'bit',b'101'),'{}'),
 (3,'[]','"x"'),(4,'"q\\"\\\\/\\b\\f\\n\\r\\t ü𝄞"','null'),(5,'null','true'),(6,'18446744073709551615','false'),
 (7,'-9223372036854775808','[1,-1,32767,-32768,32768,65535,65536,2147483647,-2147483648,2147483648,4294967295,4294967296]'),
 (8,json_array(cast(12345678901234567890.123456789 as decimal(40,20)),-0.000,cast(-1.5 as decimal(3,2))),null),
 (9,json_array(1e308,1e-308,5e-324,1e15,1e14,1e16,123456789012345678,0.000001,1e-15,1e-16,1.7976931348623157e308,-1e100),'1e1'),
 (10,concat('["',repeat('x',70000),'"]'),concat('[',repeat('1,',40000),'1]')),
 (11,concat('{',repeat('"a',0),'"k":"',repeat('y',200),'","zz":',repeat('[',90),repeat(']',90),'}'),'[{"b":1,"a":{"c":[true,null]}}]'),
 (12,cast(cast('2024-01-02' as date) as json),cast(cast('838:59:59' as time) as json)),
 (13,json_array(st_geomfromtext('POINT(1 2)')),cast(-1.0e0 as json));
set binlog_row_value_options = PARTIAL_JSON;
insert into jsons values (20,'{"a":1,"b":[1,2,3],"t":"x","key with space":{"x":[[1],[2]]}}','[1,2,3]');
update jsons set j = json_set(j,'$.a',2) where id = 20;
update jsons set j = json_remove(j,'$.b[0]') where id = 20;
update jsons set j = json_set(j,'$."key with space".x[1][0]','é', '$.t', cast(1.25 as decimal(5,2))), k = json_replace(k,'$[1]',json_array('n')) where id = 20;
update jsons set j = json_set(j,'$.zz',1), k = json_remove(k,'$[0]') where id = 20;
update jsons set k = json_remove(k,'$[0]') where id = 20;
update jsons set j = null where id = 20;
update jsons set j = '{"fresh":1}', k = json_set(k,'$[5]',9) where id = 20;
update jsons set j = json_set(j,'$.fresh', repeat('w', 300)) where id = 20;
set binlog_row_value_options = '';

create table shapes(id int primary key, g geometry, p point not null srid 4326, v vector(3), v2 vector);
insert into shapes values
 (1,st_geomfromtext('POINT(1 2)'),st_geomfromtext('POINT(1 2)',4326),to_vector('[1,2,3.5]'),to_vector('[-1]')),
 (2,st_geomfromtext('POLYGON((0 0,1 0,1 1,0 0))',0),st_geomfromtext('POINT(-90 180)',4326),null,null),
 (3,st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))'),st_geomfromtext('POINT(0 0)',4326),
  to_vector('[0,0,0]'),to_vector('[100000000,-0.0001]'));
create table hidden(id int primary key, inv int invisible default 5, st int as (id + 1) stored, vi int as (id * 2) virtual, un int unsigned);
insert into hidden(id, un) values (1, 4000000000), (2, 3);
create table no_pk(id int, v varchar(10));
insert into no_pk values (1, 'a'), (2, 'b');
alter table no_pk add column w bigint unsigned default 18446744073709551615;
insert into no_pk values (3, 'c', 7);
update no_pk set w = 18446744073709551614 where id < 3;
set session binlog_transaction_compression = on;
create table squeezed(id int primary key, v longtext);
begin; insert into squeezed values (1, repeat('abc', 100000)); insert into squeezed values (2, 'x');
update squeezed set v = concat(v, 'y'); commit;
set session binlog_transaction_compression = off;
set session binlog_row_image = minimal;
create table minimal(id int primary key, a int, b varchar(10), c mediumint);
insert into minimal(id, a) values (1, -5), (2, null);
update minimal set c = -3 where id = 1;
update minimal set b = 'z', id = 9 where id = 2;
insert into minimal(id) values (4);
delete from minimal where id = 4;
set session binlog_row_image = full;
"#;

const MARIADB: &str = r#"
create table mariadb(id int unsigned primary key, u uuid, i6 inet6, j json, g point, ge int as (id + 1) stored,
  gv int as (id + 2) virtual, inv int invisible default 5, ts timestamp(6) null, vc varchar(2000) compressed,
  vb varbinary(500) compressed, v0 varchar(255) compressed default 'dflt', v1 varchar(100) compressed, tc text compressed character set latin1, bc blob compressed, lc longtext compressed);
insert into mariadb(id,u,i6,j,g,ts,vc,vb,tc,bc,lc) values
 (1,'6ba7b810-9dad-11d1-80b4-00c04fd430c8','::1','{"a": 1,  "a":2}',point(1,2),'2001-02-03 04:05:06.7',
  repeat('abc',100),repeat('b',400),repeat('é',300),repeat('abc',10000),repeat('ü',70000)),
 (4000000000,'00000000-0000-0000-0000-000000000000','1:2:3:4:5:6:7:8','[1]',null,null,'','','','',''),
 (3,'f47ac10b-58cc-4372-a567-0e02b2c3d479','::ffff:1.2.3.4',null,null,'2038-01-19 03:14:07.999999','short',
  unhex('00ff'),'x','y','z'),
 (4,'ffffffff-ffff-ffff-ffff-ffffffffffff','::',null,null,null,null,null,null,null,null),
 (5,'018f3f4e-7c1a-7000-8000-000000000000','::1.2.3.4',null,null,null,null,null,null,null,null),
 (6,'00112233-4455-6677-8899-aabbccddeeff','1::',null,null,null,null,null,null,null,null),
 (7,'1ef21d2f-3c6a-6c20-9f3e-2b0c7a5d0000','1:0:0:2::3',null,null,null,null,null,null,null,null),
 (8,null,'1:0:2:0:3:0:4:0',null,null,null,null,null,null,null,null),
 (9,'00000000-0000-1000-8000-000000000000','ff02::1:ff00:0',null,null,null,null,null,null,null,null),
 (10,null,'0:0:0:0:0:ffff:0:0',null,null,null,null,null,null,null,null),
 (11,null,'::ffff',null,null,null,null,null,null,null,null),
 (12,null,'0:0:0:0:ffff::',null,null,null,null,null,null,null,null),
 (13,null,'0:1:2:3:4:5:6:7',null,null,null,null,null,null,null,null),
 (14,null,'::1:2',null,null,null,null,null,null,null,null),
 (15,null,'1:2:3:4:5:6:7:0',null,null,null,null,null,null,null,null);
insert into mariadb(id,u) select seq, uuid() from seq_100_to_150;
insert into mariadb(id,u,i6) select seq,
   cast(concat(substr(md5(seq),1,8),'-',substr(md5(seq),9,4),'-',substr(md5(seq),13,4),'-',substr(md5(seq),17,4),'-',substr(md5(seq),21)) as uuid),
   cast(concat('::',hex(seq*7919 % 65536),':',hex(seq*104729 % 65536)) as inet6) from seq_200_to_1200;
update mariadb set v1 = repeat('v',100), v0 = repeat('v',255), vc = repeat('z',500), bc = repeat('q',1000), u = uuid() where id < 10;
create table shapes(id int primary key, g geometry, p polygon, v varchar(5));
insert into shapes values (1,st_geomfromtext('POINT(1 2)'),st_geomfromtext('POLYGON((0 0,1 0,1 1,0 0))'),'x'),(2,null,null,'é');
create table aria(id int primary key, v int) engine=aria; insert into aria values (1,-1);
set global log_bin_compress = on; set global log_bin_compress_min_len = 10;
create table squeezed(id int primary key, v longtext, m mediumint) /* a comment so that the statement is long */;
insert into squeezed select seq, repeat('abc', 100), -seq from seq_1_to_300;
update squeezed set v = concat(v, 'y'), m = m - 1;
delete from squeezed where id > 290;
set global log_bin_compress = off;
set session binlog_row_image = minimal;
create table minimal(id int primary key, a int, b varchar(10), c mediumint);
insert into minimal(id, a) values (1, -5), (2, null);
update minimal set c = -3 where id = 1;
update minimal set b = 'z', id = 9 where id = 2;
insert into minimal(id) values (4);
delete from minimal where id = 4;
set session binlog_row_image = full;
"#;

const MARIADB_11_8: &str = "
create table newer(id int primary key, i4 inet4, ts timestamp null, ts3 timestamp(3) null, v vector(3));
insert into newer values (1,'1.2.3.4','2100-01-01 00:00:00','2106-02-07 06:28:15.999',vec_fromtext('[1,2,3.5]')),
 (2,'0.0.0.0','2038-01-19 03:14:08','2100-03-01 00:00:00',null),(3,null,'2100-02-28 23:59:59',null,vec_fromtext('[0,0,0]')),
 (4,'255.255.255.0',null,null,null);
";

fn script(version: Version) -> (String, Vec<&'static str>) {
    let mut tables = vec!["numbers", "times", "texts", "shapes", "squeezed", "minimal"];
    let mut sql = COMMON.to_owned();
    match version {
        Version::Mysql9_7 => {
            sql += MYSQL;
            tables.extend(["jsons", "hidden", "no_pk"]);
        }
        Version::Mariadb10_11 | Version::Mariadb11_8 => {
            sql += MARIADB;
            tables.extend(["mariadb", "aria"]);
        }
    }
    if version == Version::Mariadb11_8 {
        sql += MARIADB_11_8;
        tables.push("newer");
    }
    (sql, tables)
}

fn every_type(version: Version, options: &[&str]) {
    let server = Mysql::start(version, options).unwrap();
    let (sql, tables) = script(version);
    server.run(&sql).unwrap();
    oracle::check(&server, &tables);
}

#[test]
fn every_type_of_mariadb_10_11() {
    every_type(Version::Mariadb10_11, &[]);
}

#[test]
fn every_type_of_mariadb_11_8() {
    every_type(Version::Mariadb11_8, &[]);
}

#[test]
fn every_type_of_mysql_9_7() {
    every_type(Version::Mysql9_7, &[]);
}

/// MariaDB's default: neither signs nor character sets nor labels are in the stream.
#[test]
fn every_type_of_mariadb_by_the_catalog_alone() {
    every_type(Version::Mariadb10_11, &["--binlog-row-metadata=NO_LOG"]);
}

#[test]
fn every_type_with_minimal_metadata() {
    every_type(Version::Mysql9_7, &["--binlog-row-metadata=MINIMAL"]);
    every_type(Version::Mariadb11_8, &["--binlog-row-metadata=MINIMAL", "--binlog-checksum=NONE"]);
}
