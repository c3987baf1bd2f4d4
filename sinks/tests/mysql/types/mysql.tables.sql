create table jsons(id int primary key, j json, k json);
create table shapes(id int primary key, g geometry, p point not null srid 4326, v vector(3), v2 vector);
create table hidden(id int primary key, inv int invisible default 5, st int as (id + 1) stored, vi int as (id * 2) virtual, un int unsigned);
create table squeezed(id int primary key, v longtext);
