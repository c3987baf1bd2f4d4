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
insert into shapes values
 (1,st_geomfromtext('POINT(1 2)'),st_geomfromtext('POINT(1 2)',4326),to_vector('[1,2,3.5]'),to_vector('[-1]')),
 (2,st_geomfromtext('POLYGON((0 0,1 0,1 1,0 0))',0),st_geomfromtext('POINT(-90 180)',4326),null,null),
 (3,st_geomfromtext('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))'),st_geomfromtext('POINT(0 0)',4326),
  to_vector('[0,0,0]'),to_vector('[100000000,-0.0001]'));
insert into hidden(id, un) values (1, 4000000000), (2, 3);
set session binlog_transaction_compression = on;
begin; insert into squeezed values (1, repeat('abc', 100000)); insert into squeezed values (2, 'x');
update squeezed set v = concat(v, 'y'); commit;
set session binlog_transaction_compression = off;
