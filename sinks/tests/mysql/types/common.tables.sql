create table numbers(id int primary key, i1 tinyint, u1 tinyint unsigned, i2 smallint,
  u2 smallint unsigned, y year, i3 mediumint, u3 mediumint unsigned, i4 int, u4 int unsigned zerofill,
  i8 bigint, u8 bigint unsigned, f float, d double, d1 decimal(65,30), d2 decimal(5,0),
  d3 decimal(1,1), d4 decimal(18,9), d5 decimal(10,2) unsigned, b bool);
create table times(id int primary key, t0 time, t1 time(1), t2 time(2), t3 time(3), t4 time(4),
  t5 time(5), t6 time(6), d date, p0 datetime, p1 datetime(1), p2 datetime(2), p3 datetime(3),
  p4 datetime(4), p5 datetime(5), p6 datetime(6), s0 timestamp null, s1 timestamp(1) null,
  s2 timestamp(2) null, s3 timestamp(3) null, s4 timestamp(4) null, s5 timestamp(5) null,
  s6 timestamp(6) null);
create table texts(id int primary key, v1 varchar(20) character set latin1, c1 char(10) character set utf8mb4,
  c2 char(255) character set utf8mb4, v2 varchar(300) character set cp1251, t1 text character set latin1,
  t2 mediumtext character set utf8mb4, tt tinytext character set koi8r, lt longtext character set utf16,
  u2 varchar(10) character set ucs2, u4 varchar(10) character set utf32, le varchar(10) character set utf16le,
  u3 char(5) character set utf8mb3, b1 binary(8), b2 varbinary(300), bl blob, lb longblob, tb tinyblob,
  e1 enum('a','b','ü') character set utf8mb4, e2 enum('ä','ö','x,y') character set latin1,
  s1 set('x','y','z'), s2 set('é','è') character set latin1, bt bit(1), b10 bit(10), b64 bit(64));
