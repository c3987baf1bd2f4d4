//! Rows of all types.

use tests::mysql::Version;

/// Every type with its edges; a text of every character set in bytes of its own.
pub const TYPES: &str = "
create database t; use t;
set sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';
create table numbers (id int auto_increment primary key, a tinyint, b smallint unsigned, c mediumint,
  d bigint unsigned, e decimal(65,30), f float, g double, h float(7,3), i double(20,4), j bit(1), k bit(64),
  l int(5) unsigned zerofill, m year, n decimal(10,0) unsigned);
insert into numbers values (0,-128,65535,-8388608,18446744073709551615,
  -12345678901234567890123456789012345.123456789012345678901234567890, 16777217, 1.7976931348623157e308,
  1234.567, 123456789012.3456, b'1', b'1111111111111111111111111111111111111111111111111111111111111111', 42, 0, 7),
  (1,127,0,8388607,0,0.000000000000000000000000000001,-0e0,2.2250738585072014e-308,-0.001,-0.0001,b'0',b'1',99999,1901,0),
  (2,0,1,-1,1,1,1.17549435e-38,-4.9406564584124654e-324,0,0,null,b'101',0,2155,1),
  (3,null,null,null,null,null,null,null,null,null,null,null,null,null,null),
  (4,1,1,1,1,1,3.4028235e38,0.1,0.1,0.1,b'1',b'0',1,2000,1), (5,1,1,1,1,1,0.3,-0e0,1,1,b'1',b'0',1,1999,1);
create table times (id int primary key, a date, b datetime, c datetime(6), d time, e time(6), f timestamp null,
  g timestamp(6) null, h timestamp(3) not null default current_timestamp(3) on update current_timestamp(3));
set time_zone = '+00:00';
insert into times values (1,'0000-00-00','0000-00-00','0000-00-00 00:00:00.000000','-838:59:59','-00:00:00.000001',
    '0000-00-00 00:00:00','1970-01-01 00:00:01.000001','2001-02-03 04:05:06.789'),
  (2,'2024-00-00','2024-01-00 00:00:00','2024-02-31 23:59:59.999999','838:59:59','838:59:58.999999',
    '2038-01-19 03:14:07','2038-01-19 03:14:07.999999','2011-03-27 02:30:00.001'),
  (3,'9999-12-31','1000-01-01','9999-12-31 23:59:59.999999','00:00:00','-00:00:01','1970-01-01 00:00:01',null,'2020-01-01');
create table texts (id int primary key, a varchar(40) character set latin1, b varchar(40) character set utf8mb4,
  c char(10) character set utf8mb3, d text character set ucs2, e varchar(40) character set utf16,
  f varchar(40) character set sjis, g varchar(40) character set gbk, h longtext character set utf8mb4,
  i varbinary(40), j binary(8), k longblob, l tinytext character set cp1251,
  m enum('a','b','ä') character set latin1, n set('x','y','z''') not null default '', o varchar(30) character set ascii);
insert into texts values (1, x'E4F6FF00275C', 'ä€😀\\\\''\\0\\n\\t', 'ü ', x'00E4D83D', x'D83DDE00', x'835C5C27', x'815C27',
    repeat('ä\\\\''', 500000), x'00FF275C0A1A', x'61', x'', x'C0', 'ä', 'x,z''', 'a\\Zb'),
  (2, '', '', '', '', '', '', '', '', '', '', repeat(x'00FF275C', 300000), '', 0, '', ''),
  (3, null, null, null, null, null, null, null, null, null, null, null, null, null, 'y', null),
  (4, 'NULL', ' trailing  ', 'x', 'a', 'b', 'c', 'd', '\\\\N', '\\\\N', x'2020202020202020', 'NULL', 'e', 'b', 'x,y,z''', '1');
create table shapes (id int primary key, g geometry, p point, l linestring not null);
insert into shapes values (1, ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))'), ST_GeomFromText('POINT(1.1 -2.2)', 0),
    ST_GeomFromText('LINESTRING(0 0,1 1e100)')), (2, null, null, ST_GeomFromText('LINESTRING(3 3,1 2)'));
create table made (a int, b int as (a + 1) stored, c int as (a * 2) virtual, id int invisible auto_increment primary key);
insert into made (a, id) values (1, 5), (2, 9), (null, 11);
create table keyless (v varchar(10), n int); insert into keyless values ('a', 1), ('a', 1), (null, null);
create table empty_ (id int primary key);
create table only_defaults (id int auto_increment primary key); insert into only_defaults values (0), (3);
create table zero_defaults (id int primary key, d date not null default '0000-00-00', t datetime default '0000-00-00 00:00:00');
insert into zero_defaults (id) values (1);
";

/// Types of MariaDB alone.
pub const TYPES_MARIADB: &str = "use t;
create table own (u uuid primary key, a inet6, b inet4, c varchar(200) compressed, d blob compressed, j json);
insert into own values ('123e4567-e89b-12d3-a456-426655440000', '::ffff:1.2.3.4', '255.0.0.1', repeat('ä', 150),
  repeat('x', 5000), '{\"b\": 1, \"a\" : [1.0, 1e400]}'),
  ('ffffffff-ffff-ffff-ffff-ffffffffffff', '::', '0.0.0.0', '', '', '\"\\\\u0000\"');
";

/// Types of MySQL alone.
pub const TYPES_MYSQL: &str = "use t;
create table own (id binary(3) primary key, j json, v vector(3), s geometry srid 4326);
insert into own values ('a\\0', '{\"b\": [1, 2.5, -0.0, 1e300, 18446744073709551615, \"ä\\\\u0000😀\"], \"a\": null}',
  to_vector('[1,-2.5,0]'), ST_GeomFromText('POINT(10 20)', 4326)), ('b', 'null', null, null), ('c', '[]', null, null);
";

/// Tables with keys of every type that orders rows, and of some that don't.
pub fn keyed_by_everything(version: Version) -> String {
    let mut keys = vec![
        (
            "latin",
            "varchar(20) character set latin1 collate latin1_swedish_ci",
            "concat(char(65 + seq % 50), seq)",
        ),
        ("binaries", "varbinary(40)", "unhex(sha2(seq, 256))"),
        ("times_", "datetime(3)", "date_add('2001-01-01', interval seq * 1001 microsecond)"),
        ("decimals", "decimal(20,5)", "seq / 7 - 100"),
        ("longs", "bigint unsigned", "18446744073709551615 - seq * seq"),
        ("signed", "int", "(seq - 1000) * 7"),
    ];
    if version.is_mariadb() {
        keys.push((
            "uuids",
            "uuid",
            "concat(lpad(hex(seq * 7919), 8, '0'), '-1111-1111-8111-111111111111')",
        ));
    }
    let mut sql = "use t; create table seqs (seq int primary key);
        insert into seqs with recursive s (n) as (select 1 union all select n + 1 from s where n < 900) select n from s;
        insert into seqs select seq + 900 from seqs; insert into seqs select seq + 1800 from seqs;
        set sql_mode = 'ALLOW_INVALID_DATES';\n"
        .to_owned();
    for (name, of, value) in keys {
        sql += &format!(
            "create table by_{name} (k {of} primary key, pad varchar(250)) character set utf8mb4;
             insert into by_{name} select {value}, repeat(char(65 + seq % 26), 200) from seqs;\n"
        );
    }
    sql + "create table by_several (a int, e enum('z','y','x'), b char(3) character set utf8mb4, c date,
             primary key (a, b, c, e)) character set utf8mb4;
           insert into by_several select seq % 3, 1 + seq % 3, char(97 + seq % 20), date_add('2020-01-01', interval seq day)
             from seqs;
           create table by_unique (a int not null, b varchar(200), unique (a)); insert into by_unique select seq, repeat('x', 180) from seqs;
           create table by_impossible_dates (d date, n int, pad varchar(200), primary key (d, n));
           insert into by_impossible_dates select concat(2020 + seq % 4, '-', lpad(seq % 13, 2, '0'), '-',
             lpad(seq % 32, 2, '0')), seq, repeat('x', 180) from seqs;
           create table by_prefix (a varchar(300), b int, primary key (a(5))) character set utf8mb4;
           insert into by_prefix select concat(lpad(seq, 5, '0'), 'tail'), seq from seqs;"
}
