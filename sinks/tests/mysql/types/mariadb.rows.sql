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
insert into shapes values (1,st_geomfromtext('POINT(1 2)'),st_geomfromtext('POLYGON((0 0,1 0,1 1,0 0))'),'x'),(2,null,null,'é');
set global log_bin_compress = on; set global log_bin_compress_min_len = 10;
insert into squeezed select seq, repeat('abc', 100), -seq from seq_1_to_300;
update squeezed set v = concat(v, 'y'), m = m - 1;
delete from squeezed where id > 290;
set global log_bin_compress = off;
