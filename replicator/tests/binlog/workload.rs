//! Clients that change several tables at once, and what they must have left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts};
use tests::mysql::Mysql;

use super::engine::url;

pub const CLIENTS: u64 = 4;

pub const TABLES: &str = "
  create table account(id int primary key, name varchar(40) not null, email varchar(60), phone varchar(20),
    balance decimal(14,2) not null, changed timestamp(6) not null default current_timestamp(6) on update current_timestamp(6),
    unique key(email), unique key(phone));
  create table purchase(id bigint unsigned auto_increment primary key, account int not null, item varchar(20),
    price double, unique key(account, item), foreign key (account) references account(id) on delete cascade);
  create table done(client int, n int, note varbinary(16), primary key(client, n));
  create table counter(client int primary key, n int not null);
  create table journal(client int, n int, what varchar(20), key(client));";

pub const NAMES: [&str; 5] = ["account", "purchase", "done", "counter", "journal"];

/// Clients at work.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    pub committed: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    pub fn start(blue: &Mysql) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let clients = (0..CLIENTS)
            .map(|client| {
                let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
                tokio::spawn(work(url(blue), client, stop, committed))
            })
            .collect();
        Crowd { stop, committed, clients }
    }

    /// Waits until so many more transactions have committed.
    pub fn after(&self, more: u64) {
        let wanted = self.committed.load(Ordering::Relaxed) + more;
        tests::wait::until_blocking("the clients", std::time::Duration::from_secs(60), || {
            assert!(!self.clients.iter().any(|client| client.is_finished()), "a client failed");
            Ok((self.committed.load(Ordering::Relaxed) >= wanted).then_some(()))
        })
        .unwrap();
    }

    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.committed.load(Ordering::Relaxed)
    }
}

async fn work(url: String, client: u64, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) {
    let mut conn = Conn::new(Opts::from_url(&url).unwrap()).await.unwrap();
    // An account that nobody removes: the purchases of the others go with them.
    let stays = client * 1000 + 900;
    for sql in [
        "begin".to_owned(),
        format!("insert into t.counter values ({client}, 0)"),
        format!("insert into t.account(id, name, balance) values ({stays}, 'stays', 0)"),
        format!("insert into t.purchase(account, item, price) values ({stays}, 'i', 0.1)"),
        "commit".to_owned(),
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    committed.fetch_add(1, Ordering::Relaxed);
    let mut random = client.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut below = move |most: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most
    };
    let mut n = 1u64;
    while !stop.load(Ordering::Relaxed) {
        // Each client has accounts of its own, so that none waits for another for ever.
        let id = client * 1000 + below(40);
        let other = client * 1000 + below(40);
        let mut sql = vec![match below(7) {
            0 | 1 => format!(
                "insert into t.account(id, name, email, phone, balance) values ({id}, 'N{n}', 'E{id}', null, {n}.25)
                 on duplicate key update name = 'ä{n}', balance = balance + 0.01"
            ),
            2 => format!("update t.account set email = concat('x', {n}, '-', id), phone = '{id}' where id = {id}"),
            3 => format!("delete from t.account where id = {id}"),
            4 => format!(
                "insert ignore into t.purchase(account, item, price) values ({id}, 'i{}', {n}.1), ({other}, 'j', -{n}e-3)",
                below(5)
            ),
            5 => format!("update t.account set id = {} where id = {id} and not exists (select 1 from t.purchase where account = {id})", client * 1000 + 100 + below(400)),
            _ => format!("update t.purchase set price = price * 1.5, item = concat('k', id) where account = {id}"),
        }];
        if below(5) == 0 {
            sql.push(format!(
                "insert into t.journal values ({client}, {}, 'same'), ({client}, {}, 'same')",
                n % 3,
                n % 3
            ));
            sql.push(format!(
                "delete from t.journal where client = {client} and n = {} limit 1",
                below(3)
            ));
        }
        if below(60) == 0 {
            sql.push(format!("update t.journal set what = 'all of them' where client = {client}"));
        }
        sql.push(format!("insert into t.done values ({client}, {n}, x'{:032x}')", n));
        sql.push(format!(
            "update t.counter set n = n + 1 where client = {client} and n = {}",
            n - 1
        ));
        conn.query_drop("begin").await.unwrap();
        let mut refused = false;
        for sql in &sql {
            match conn.query_drop(sql).await {
                // A deadlock, or the key that an account would move to is taken: nothing of it stays.
                Err(Error::Server(error)) if matches!(error.code, 1062 | 1205 | 1213) => {
                    refused = true;
                    break;
                }
                other => other.unwrap_or_else(|error| panic!("{sql}: {error}")),
            }
        }
        if refused {
            conn.query_drop("rollback").await.unwrap();
            continue;
        }
        conn.query_drop("commit").await.unwrap();
        n += 1;
        committed.fetch_add(1, Ordering::Relaxed);
    }
    conn.disconnect().await.unwrap();
}

/// All rows of a table, in one order.
pub fn rows(server: &Mysql, table: &str) -> Vec<Vec<Vec<u8>>> {
    let mut rows = server.rows(&format!("select * from t.{table}")).unwrap();
    rows.sort();
    rows
}
