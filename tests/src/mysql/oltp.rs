//! Tables and transactions as sysbench's `oltp_write_only` has them: an update of an indexed column, one
//! of another, a delete, and an insert of the row that was deleted.

use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::numbers::numbers;
use crate::ledger::{Random, mysql::options};

/// The size of the tables `sbtest1`, `sbtest2`, ..
#[derive(Debug, Clone, Copy)]
pub struct Oltp {
    pub tables: u32,
    /// Of each.
    pub rows: u64,
}

impl Oltp {
    /// SQL that creates and fills them in the current database.
    pub fn create(self) -> String {
        let Oltp { tables, rows } = self;
        let source = numbers(rows);
        let table = |n: u32| {
            format!(
                "create table sbtest{n} (
                     id int not null auto_increment primary key, k int not null default 0,
                     c char(120) not null default '', pad char(60) not null default '', key (k));
                 insert into sbtest{n} (id, k, c, pad)
                     select n, 1 + floor(rand() * {rows}), rpad(sha2(n, 256), 119, sha2(rand(), 256)), left(sha2(-n, 256), 60)
                     from {source};"
            )
        };
        (1..=tables).map(table).collect()
    }

    /// The names of the tables.
    pub fn names(self) -> Vec<String> {
        (1..=self.tables).map(|n| format!("sbtest{n}")).collect()
    }

    /// Commits about so many transactions behind this URL, in several sessions at once, and gives their
    /// exact number. `seed` makes those of one call differ from another's.
    pub fn run(self, url: &str, sessions: u64, transactions: u64, seed: u64) -> Result<u64> {
        let each = transactions.div_ceil(sessions);
        let threads: Vec<JoinHandle<Result<u64>>> = (0..sessions)
            .map(|session| {
                let url = url.to_owned();
                std::thread::spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let random = Random(seed * 1000 + session);
                    runtime.block_on(self.session(&url, each, random))
                })
            })
            .collect();
        let mut committed = 0;
        for thread in threads {
            committed += thread.join().map_err(|_| anyhow!("a session panicked"))??;
        }
        Ok(committed)
    }

    async fn session(self, url: &str, transactions: u64, mut random: Random) -> Result<u64> {
        let mut session = Conn::new(options(url)?).await.context("a session of the load")?;
        let mut committed = 0;
        while committed < transactions {
            match session.query_drop(self.transaction(&mut random)).await {
                Ok(()) => committed += 1,
                // A deadlock: the server has rolled back, and what comes next begins another one.
                Err(Error::Server(error)) if error.code == 1213 => {}
                Err(error) => return Err(error).context("a transaction of the load"),
            }
        }
        Ok(committed)
    }

    /// All four statements in one message: it is the servers that are measured.
    fn transaction(self, random: &mut Random) -> String {
        let table = format!("sbtest{}", 1 + random.below(u64::from(self.tables)));
        let mut row = || 1 + random.below(self.rows);
        let (indexed, other, gone, k) = (row(), row(), row(), row());
        let (c, pad) = (random.below(u64::MAX), random.below(u64::MAX));
        format!(
            "begin; update {table} set k = k + 1 where id = {indexed};
             update {table} set c = rpad('{c}', 119, '{c}-') where id = {other};
             delete from {table} where id = {gone};
             insert into {table} (id, k, c, pad) values
                 ({gone}, {k}, rpad('{pad}', 119, '{pad}-'), rpad('{pad}', 59, '{c}-'));
             commit"
        )
    }
}
