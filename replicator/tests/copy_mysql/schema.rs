//! Green's schema is blue's.

use anyhow::Result;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use replicator::backfill::ProgressSender;
use replicator::backfill::mysql::{Turn, record_copied};
use replicator::schema::mysql::{Automation, Moved, Notes};
use tests::mysql::{Mysql, Version};

use super::support::{PAIRS, PIPELINE, pair, schema_copy, url};

const COMMON: &str = "
create database shop character set latin1 collate latin1_german2_ci;
create database `odd ``name` character set utf8mb4 collate utf8mb4_unicode_ci;
use shop;
create table parent (
  id int unsigned not null auto_increment comment 'it''s, (here) \\\\ `x`', label varchar(20),
  u varchar(30) character set utf8mb4 collate utf8mb4_bin not null default 'a,b)',
  e enum('x,y', ')', 'ä''') character set utf8mb4, s set('a','b'), b bit(9) default b'101',
  ts timestamp(3) not null default current_timestamp(3) on update current_timestamp(3),
  d datetime null default null, g int generated always as (hidden * 2) virtual,
  h varchar(40) character set utf8mb4 as (concat(u, ',)')) stored, hidden int invisible default 7,
  constraint positive check (hidden > 0 and u <> '),'), t text, f float, doc json,
  primary key (id), unique key `u``k` (u, label(5)), key `k (` (d), fulltext key words (t)
) auto_increment = 77 comment 'x COLLATE=';
create table child (
  p int unsigned, q int, key (p), n bigint not null auto_increment, key counted (n),
  constraint `f,k` foreign key (p) references parent (id) on delete cascade on update set null
) engine = innodb default charset = utf8mb4 collate utf8mb4_general_ci;
create table zero (d datetime not null default '2001-01-01', v varbinary(5), y year);
create table parted (k int not null, v varchar(9), primary key (k), key (v))
  partition by range (k) (partition p0 values less than (10), partition p1 values less than maxvalue);
create table `odd ``name`.`t ``able` (`c ``ol` char(3) primary key);
create view second as select * from first_;
";

/// What is made here keeps the database's default of the moment, which is another one afterwards.
const STORED: &str = "
alter database shop collate latin1_swedish_ci;
create view first_ as select id, label from parent;
create or replace view second as select id from first_;
delimiter //
create function twice(n int) returns int deterministic return n * 2//
create procedure look() begin select 'a;b' from parent; end//
create trigger later before insert on parent for each row set new.label = concat(new.label, 'B')//
create trigger earlier before insert on parent for each row precedes later
  set new.label = concat(new.label, 'A')//
create event on_ on schedule every 1 year do set @a = ' ON COMPLETION PRESERVE ENABLE'//
create event off_ on schedule every 1 year on completion preserve disable do set @a = 1//
delimiter ;
alter database shop collate latin1_german2_ci;
insert into parent (label) values ('x'), ('y');
";

const MARIADB: &str = "
create sequence numbers start with 100 increment by 5 cache 10; do nextval(numbers);
create table only_mariadb (u uuid primary key, i inet6, c varchar(100) compressed, index (i));
";

fn fill(blue: &Mysql) -> Result<()> {
    blue.run(&COMMON.replace("create view second as select * from first_;", ""))?;
    blue.run(&format!("use shop; {STORED}"))?;
    if blue.version().is_mariadb() {
        blue.run(&format!("use shop; {MARIADB}"))?;
    }
    Ok(())
}

/// What has to be the same, however it is printed.
const ESSENCE: [&str; 8] = [
    "select table_schema, table_name, engine, table_collation, auto_increment, table_comment, create_options
     from information_schema.tables where table_schema in ('shop', 'odd `name') and table_type <> 'VIEW' order by 1, 2",
    "select table_schema, table_name, ordinal_position, column_name, column_type, is_nullable, column_default,
       character_set_name, collation_name, extra, column_comment, generation_expression
     from information_schema.columns where table_schema in ('shop', 'odd `name') order by 1, 2, 3",
    "select table_name, index_name, non_unique, seq_in_index, column_name, sub_part, index_type
     from information_schema.statistics where table_schema in ('shop', 'odd `name') order by 1, 2, 4",
    "select constraint_name, unique_constraint_name, update_rule, delete_rule, table_name, referenced_table_name
     from information_schema.referential_constraints where constraint_schema = 'shop' order by 1",
    "select constraint_name, check_clause from information_schema.check_constraints
     where constraint_schema = 'shop' order by 1",
    "select table_name, partition_name, partition_method, partition_description
     from information_schema.partitions where table_schema = 'shop' and partition_name is not null order by 1, 2",
    "select schema_name, default_collation_name from information_schema.schemata
     where schema_name in ('shop', 'odd `name') order by 1",
    "select routine_name, database_collation from information_schema.routines where routine_schema = 'shop'
     union select event_name, database_collation from information_schema.events order by 1",
];

#[tokio::test]
async fn definitions_arrive_as_they_are() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        fill(&blue)?;
        let (copy, progress) = (schema_copy(&blue, &green), ProgressSender::default());
        let made = copy.make_tables(&progress).await?;
        assert_eq!(made.warnings, Vec::<String>::new());
        let keys = "select count(*) from information_schema.statistics where index_name = 'u`k'";
        assert_eq!(green.value(keys)?, "0", "keys come after the rows");
        // Again, as after a crash: what is there stays.
        green.run("insert into shop.zero (y) values (2024)")?;
        copy.make_tables(&progress).await?;
        assert_eq!(green.value("select count(*) from shop.zero")?, "1");
        for _ in 0..2 {
            copy.add_keys(&progress).await?;
        }
        for _ in 0..2 {
            assert_eq!(copy.make_stored(&progress).await?, Vec::<String>::new(), "{versions:?}");
        }
        for sql in ESSENCE {
            let (one, two) = (blue.rows(sql)?, green.rows(sql)?);
            let text = |rows: &Vec<Vec<Vec<u8>>>| -> Vec<String> {
                let row =
                    |row: &Vec<Vec<u8>>| String::from_utf8_lossy(&row.join(&b"|"[..])).into_owned();
                rows.iter().map(row).collect()
            };
            assert!(!one.is_empty() || sql.contains("check_clause"));
            assert_eq!(text(&one), text(&two), "{versions:?}: {sql}");
        }
        what_runs_is_quiet_until_the_flip(&blue, &green).await?;
        if versions.0.is_mariadb() {
            let next = "select nextval(shop.numbers)";
            let (one, two) =
                (blue.value(next)?.parse::<i64>()?, green.value(next)?.parse::<i64>()?);
            assert!(two > one, "{two} would be given twice, blue gives {one}");
        }
    }
    Ok(())
}

async fn what_runs_is_quiet_until_the_flip(blue: &Mysql, green: &Mysql) -> Result<()> {
    let triggers = "select count(*) from information_schema.triggers where trigger_schema = 'shop'";
    let enabled = "select event_name from information_schema.events where status = 'ENABLED'";
    assert_eq!(green.value(triggers)?, "0");
    assert!(green.rows(enabled)?.is_empty());
    assert_eq!(green.value("select count(*) from information_schema.events")?, "2");
    assert_eq!(green.value("select shop.twice(4)")?, "8");
    green.run("insert into shop.parent (id, label) values (1, 'x'); call shop.look();")?;
    assert_eq!(green.value("select id from shop.second")?, "1");
    let automation = |from: &ServerUrl, to: &ServerUrl| {
        Automation::of(PIPELINE.into(), [from, to], TableFilter::default())
    };
    let there = automation(&url(blue), &url(green));
    let moved = |triggers, events| Moved { triggers, events };
    let nothing = (moved(0, 0), Vec::new());
    assert_eq!(there.note().await?, moved(2, 2));
    // As a process leaves it that dies while something is made.
    green.run(&format!(
        "alter database shop collate latin1_bin; insert into _cutover.copy_notes
         values ('{PIPELINE}', 'own collation', 'shop', '', 'waiting', 'latin1_german2_ci')"
    ))?;
    assert_eq!(there.bring().await?, (moved(2, 1), Vec::new()));
    let defaults = "select group_concat(distinct database_collation) from (
         select database_collation from information_schema.triggers where trigger_schema = 'shop'
         union all select database_collation from information_schema.events) t";
    let own =
        "select default_collation_name from information_schema.schemata where schema_name = 'shop'";
    assert_eq!(green.value(defaults)?, "latin1_swedish_ci");
    assert_eq!(green.value(own)?, "latin1_german2_ci");
    // Also where nothing is left to be made.
    green.run(&format!(
        "alter database shop collate latin1_bin; insert into _cutover.copy_notes
         values ('{PIPELINE}', 'own collation', 'shop', '', 'waiting', 'latin1_german2_ci')"
    ))?;
    assert_eq!(there.bring().await?, nothing);
    assert_eq!(green.value(own)?, "latin1_german2_ci");
    // Found unfinished with clients at work: what they have changed since stays.
    let one = green.value(
        "select min(trigger_name) from information_schema.triggers where trigger_schema = 'shop'",
    )?;
    green.run(&format!("drop trigger shop.`{one}`"))?;
    assert_eq!(there.bring().await?, nothing);
    assert_eq!(green.value(triggers)?, "1");
    there.note().await?;
    // Whoever may not alter the database makes them all the same.
    green.run(
        "create user narrow identified by 'x'; grant all on *.* to narrow; revoke alter on *.* from narrow",
    )?;
    let narrow = ServerUrl::parse(&format!("mysql://narrow:x@127.0.0.1:{}/", green.port()))?;
    let (made, told) = automation(&url(blue), &narrow).bring().await?;
    assert!(made.triggers == 2 && told.len() == 2, "{made:?} {told:?}");
    assert!(told[0].contains("keeps the collation latin1_german2_ci"), "{told:?}");
    there.note().await?;
    assert_eq!(there.bring().await?.0.triggers, 2);
    assert_eq!(green.value(defaults)?, "latin1_swedish_ci");
    let waiting = "select count(*) from _cutover.copy_notes where kind in ('trigger', 'event')";
    assert_eq!(green.value(waiting)?, "0");
    assert_eq!(green.value(triggers)?, "2");
    assert_eq!(green.value(enabled)?, "on_");
    green.run("insert into shop.parent (id, label) values (2, 'x')")?;
    assert_eq!(green.value("select label from shop.parent where id = 2")?, "xAB");
    assert_eq!(blue.value("select label from shop.parent where id = 77")?, "xAB");

    // What comes back sets nothing off, and a rollback finds all of it again.
    let definitions = "select * from information_schema.triggers where trigger_schema = 'shop' \
                       order by trigger_name";
    let without_time = |rows: Vec<Vec<Vec<u8>>>| -> Vec<Vec<Vec<u8>>> {
        rows.into_iter().map(|row| [&row[..16], &row[17..]].concat()).collect()
    };
    let before = without_time(blue.rows(definitions)?);
    let history = match blue.version().is_mariadb() {
        true => "select @@gtid_binlog_pos",
        false => "select @@gtid_executed",
    };
    let logged = blue.value(history)?;
    let back = automation(&url(green), &url(blue));
    assert_eq!(back.quiet().await?, moved(2, 1));
    assert!(back.quiet().await?.is_none());
    assert_eq!(blue.value(triggers)?, "0");
    assert!(blue.rows(enabled)?.is_empty());
    assert_eq!(blue.value(waiting)?, "3");
    // The other side is not asked any more.
    let nowhere = ServerUrl::parse("mysql://mover:x@127.0.0.1:1/")?;
    let alone = automation(&nowhere, &url(blue));
    assert_eq!(alone.bring().await?, (moved(2, 1), Vec::new()));
    assert_eq!(without_time(blue.rows(definitions)?), before);
    assert_eq!(blue.value(enabled)?, "on_");
    assert_eq!(back.quiet().await?, moved(2, 1));
    // An event that was dropped where clients are does not come back to life.
    green.run("drop event shop.on_")?;
    assert_eq!(back.note().await?, moved(2, 1));
    let spoil = "update _cutover.copy_notes set detail = replace(detail, 'CREATE ', 'CREATED ') \
                 where kind = 'trigger' order by name limit 1";
    blue.run(&format!("set sql_log_bin = 0; {spoil}"))?;
    let (made, missing) = back.bring().await?;
    assert_eq!((made, missing.len()), (moved(1, 0), 1), "{missing:?}");
    assert_eq!(blue.value(waiting)?, "1");
    back.note().await?;
    assert_eq!(back.bring().await?, (moved(2, 0), Vec::new()));
    assert_eq!(blue.value(waiting)?, "0");
    assert!(blue.rows(enabled)?.is_empty());
    assert_eq!(without_time(blue.rows(definitions)?), before);
    assert_eq!(blue.value(history)?, logged, "the streams would stop at it");
    Ok(())
}

#[tokio::test]
async fn tables_of_somebody_else_are_never_touched() -> Result<()> {
    let (blue, green) = pair((Version::Mariadb11_8, Version::Mariadb11_8))?;
    fill(&blue)?;
    green.run(
        "create database shop; create table shop.zero (x int); insert into shop.zero values (1)",
    )?;
    let (copy, progress) = (schema_copy(&blue, &green), ProgressSender::default());
    let refused = copy.make_tables(&progress).await.expect_err("a table is in the way");
    assert!(refused.to_string().contains("`shop`.`zero`") && !refused.is_retryable(), "{refused}");
    assert_eq!(green.value("select count(*) from shop.zero")?, "1");
    green.run("drop table shop.zero")?;
    copy.make_tables(&progress).await?;
    // A definition that changed meanwhile: the table is ours, and made anew.
    blue.run("alter table shop.zero add column more int")?;
    copy.make_tables(&progress).await?;
    let columns = "select count(*) from information_schema.columns where table_name = 'zero'";
    assert_eq!(green.value(columns)?, "4");
    // From the end of a copy on nothing is ours to drop.
    let mut session = decoders::mysql::server::connect(&url(&green)).await?;
    let turn = Turn::take(&url(&green), &Notes::of(PIPELINE)).await?;
    record_copied(&mut session, turn.epoch()).await?;
    let refused = copy.make_tables(&progress).await.expect_err("the copy is complete");
    assert!(refused.to_string().contains("`shop`.`parent`"), "{refused}");
    Ok(())
}
