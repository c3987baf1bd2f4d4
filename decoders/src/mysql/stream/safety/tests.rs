use super::super::statement::{Sorted, sort};
use super::*;

fn judged(sql: &str) -> Safety {
    match sort("d", sql, Dialect::default()) {
        Sorted::Standing { kind, tables, .. } => judge(sql, kind, &tables, None),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn what_comes_to_the_same_everywhere_is_repeated() {
    for sql in [
        "create table t(id int primary key, `select` varchar(10) default 'select', c int check (c > 1))",
        "create table if not exists s.t like u",
        "create table t(id int) engine=InnoDB default charset=utf8mb4 comment='as select'",
        "create table p(id int) partition by range (id) (partition a values less than (5))",
        "alter table t add column a int",
        "alter table t add a varchar(20) not null default 'x' after b, add unique key (a)",
        "alter table t add column if not exists a int default -1, drop column b, rename column c to d",
        "alter table t add a int unsigned default 0x10 comment 'AS (1)'",
        "alter table t add a bit(4) default b'101', add index i using btree (a, b(10)) comment ','",
        "alter table t add a timestamp null, add b timestamp null default null",
        "alter table t alter column a set default (uuid()), alter index i invisible",
        "alter table t drop primary key, add primary key (a, b), algorithm = inplace, lock=none",
        "alter table t engine = innodb, comment = 'ENGINE=MyISAM'",
        "alter table t rename to u",
        "alter table t add constraint f foreign key (a) references p(id) on delete cascade",
        "alter table t add column engine varchar(10)",
        "alter table t add a int, rename column b to engine, drop column c, rename to engine",
        "create table engine(engine varchar(10), key engine using btree (engine)) comment 'x' engine innodb",
        "create table p(engine int) partition by hash(engine) partitions 4",
        "alter /* gh-ost */ table `d`.`_t_gho` add column x int",
        "create index i on t(a)",
        "drop table if exists t, u",
        "rename table t to _t_del, _t_gho to t",
        "create view v as select 1",
        "create database x character set utf8mb4 collate utf8mb4_bin",
    ] {
        let safety = judged(sql);
        let expected =
            Safety { leaves_collation_open: safety.leaves_collation_open, ..Safety::default() };
        assert_eq!(safety, expected, "{sql}");
    }
}

#[test]
fn what_depends_on_rows_is_repeated_only_without_any() {
    for (sql, why) in [
        ("alter table t add a int as (b + 1) stored", "computed"),
        ("alter table t add a datetime default current_timestamp", "default is computed"),
        ("alter table t add a varchar(36) default (uuid())", "default is computed"),
        ("alter table t add a double default rand()", "default is computed"),
        ("alter table t add id int auto_increment primary key first", "numbers"),
        ("alter table t add a timestamp default '2020-01-01'", "server's zone"),
        ("alter table t add a timestamp not null", "a time"),
        ("alter table t add a timestamp", "a time"),
        ("alter table t convert to character set utf8mb4", "converts text"),
        ("alter table t add (a int, b int)", "several columns"),
        ("alter table t partition by hash(id) partitions 4", "partitions"),
        ("alter table t add a int partition by hash(id)", "partitions"),
        ("alter table t remove partitioning", "partitions"),
        ("alter table t truncate partition p", "partitions"),
        ("alter table t order by a", "orders"),
        ("alter table t order by engine desc", "orders"),
    ] {
        let safety = judged(sql);
        assert!(safety.refused.is_none(), "{sql}: {safety:?}");
        let found = safety.only_if_empty.unwrap_or_default();
        assert!(found.contains(why), "{sql}: {found}");
    }
}

#[test]
fn the_rest_is_refused() {
    for (sql, why) in [
        ("create table t as select * from u", "copies rows"),
        ("create table t (id int) select 1 as id", "copies rows"),
        ("create table t (id int) start transaction", "copies rows"),
        ("create table t table u", "copies rows"),
        ("create table t values row(1)", "copies rows"),
        ("create or replace table t(id int)", "replaces"),
        ("create table t(id int) with system versioning", "history"),
        ("create table t(id int) engine=myisam", "InnoDB"),
        ("create table t(id int) engine myisam", "InnoDB"),
        ("create table t(id int) comment 'x' engine 'MyISAM'", "InnoDB"),
        ("create table t(id int) partition by hash(id) (partition a engine aria)", "InnoDB"),
        ("create table t(id int) data directory = '/x'", "server"),
        ("alter table t engine=aria", "InnoDB"),
        ("alter table t comment='x' engine = memory", "InnoDB"),
        ("alter table t comment 'x' engine memory", "InnoDB"),
        ("alter table t add a int, comment 'x' engine `memory`", "InnoDB"),
        ("alter table t add partition (partition a values less than (5) engine myisam)", "InnoDB"),
        ("alter ignore table t add unique (a)", "IGNORE"),
        ("alter table t exchange partition p with table u", "swaps"),
        ("alter table t discard tablespace", "DISCARD"),
        ("alter table t frobnicate", "FROBNICATE"),
        ("alter table t", "known"),
        ("alter table t /*!80000 add column x int */", "versions"),
        ("alter table t modify a real", "new type"),
        ("rename table a to tmp, b to a, tmp to b", "places"),
        ("alter table t change a b int, change b a int first", "several columns"),
        ("alter table t rename column a to b, rename column b to a", "several columns"),
        ("drop database d", "everything"),
        ("create sequence s", "sequences"),
        ("frobnicate t", "not recognised"),
    ] {
        let refused = judged(sql).refused.unwrap_or_default();
        assert!(refused.contains(why), "{sql}: {refused:?}");
    }
}

#[test]
fn a_new_type_is_read_with_what_belongs_to_it() {
    let one = |sql: &str| judged(sql).retyped.remove(0);
    let found =
        one("alter table t modify column `a b` int(11) unsigned not null default 3 after c");
    let expected = Retyped {
        column: "a b".into(),
        data_type: "int".into(),
        arguments: vec![11],
        unsigned: true,
        not_null: true,
        ..Retyped::default()
    };
    assert_eq!(found, expected);
    let found = one(
        "alter table t change a b character varying(99) character set latin1 collate latin1_bin",
    );
    let expected = Retyped {
        column: "a".into(),
        data_type: "varchar".into(),
        arguments: vec![99],
        charset: Some("latin1".into()),
        collation: Some("latin1_bin".into()),
        ..Retyped::default()
    };
    assert_eq!(found, expected);
    assert_eq!(one("alter table t modify a enum('x', 'y')").labels, ["x", "y"]);
    assert_eq!(one("alter table t modify a numeric(10,2)").arguments, [10, 2]);
    assert!(one("alter table t modify id bigint auto_increment").auto_increment);
}

#[test]
fn a_character_set_without_a_collation_is_open() {
    for (sql, open) in [
        ("create table t(a char(3) charset utf8mb4)", true),
        ("create table t(a char(3)) default character set = utf8mb4", true),
        ("create table t(a char(3)) charset utf8mb4 collate utf8mb4_bin", false),
        ("create table t(a char(3))", false),
    ] {
        assert_eq!(judged(sql).leaves_collation_open, open, "{sql}");
    }
}
