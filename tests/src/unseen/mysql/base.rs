//! What blue holds before anything changes: one of each kind of object that a change may touch.

use anyhow::{Context, Result};

use crate::mysql::numbers::numbers;
use crate::mysql::{Mysql, Stage};

/// On both sides before the move: a role, an account, and one that has the rights of the role.
const ACCOUNTS: &str = "
    CREATE ROLE reader;
    GRANT SELECT ON shop.* TO reader;
    CREATE USER 'clerk'@'%' IDENTIFIED BY 'first';
    GRANT SELECT, UPDATE ON shop.* TO 'clerk'@'%';
    GRANT reader TO 'clerk'@'%'";

const TABLES: &str = "
    CREATE TABLE customer (id int AUTO_INCREMENT PRIMARY KEY, name varchar(60) NOT NULL,
        feeling enum('sad','ok','happy') DEFAULT 'ok', note varchar(60), born date,
        seen timestamp(3) DEFAULT current_timestamp(3));
    CREATE TABLE item (id int PRIMARY KEY, title varchar(40), cost decimal(10,2) DEFAULT 1, qty int DEFAULT 0)
        COMMENT = 'what is sold';
    CREATE TABLE orders (id bigint AUTO_INCREMENT PRIMARY KEY, customer int, item int, total decimal(12,2),
        state varchar(20) DEFAULT 'new',
        CONSTRAINT orders_customer FOREIGN KEY (customer) REFERENCES customer (id),
        CONSTRAINT orders_item FOREIGN KEY (item) REFERENCES item (id));
    CREATE TABLE wide (id int PRIMARY KEY, a int, b varchar(100), c varchar(100), d decimal(6,2),
        KEY wide_a (a), CONSTRAINT wide_d CHECK (d < 5000));
    CREATE TABLE keyless (x int, y varchar(50));
    CREATE TABLE spare (id int PRIMARY KEY, v varchar(100));
    CREATE TABLE other (id int PRIMARY KEY, v varchar(100));
    CREATE TABLE counted (id int AUTO_INCREMENT PRIMARY KEY, v int);
    CREATE TABLE label (id int PRIMARY KEY, word varchar(50)) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    CREATE TABLE measure (at int PRIMARY KEY, v int) PARTITION BY RANGE (at)
        (PARTITION p1 VALUES LESS THAN (1000), PARTITION p2 VALUES LESS THAN (2000));
    CREATE TABLE measure_out (at int PRIMARY KEY, v int)";

/// What runs, and what has no rows.
const OBJECTS: &str = "
    CREATE VIEW dear AS SELECT id, title FROM item WHERE cost > 5;
    CREATE TRIGGER stamped BEFORE INSERT ON customer FOR EACH ROW SET NEW.note = coalesce(NEW.note, 'stamped');
    CREATE PROCEDURE tidy() DELETE FROM item WHERE id < 0;
    CREATE FUNCTION tax(n int) RETURNS int DETERMINISTIC RETURN n * 2;
    CREATE EVENT yearly ON SCHEDULE EVERY 1 YEAR STARTS '2035-01-01' DO DELETE FROM item WHERE id < 0";

/// Only MariaDB's.
const SEQUENCE: &str = "CREATE SEQUENCE ticket START WITH 100";

/// Accounts are made on both sides; everything else on blue alone.
pub fn prepare(stage: &Stage) -> Result<()> {
    stage.on_blue(TABLES)?;
    stage.on_blue(&rows())?;
    stage.on_blue(OBJECTS)?;
    if stage.blue.version().is_mariadb() {
        stage.on_blue(SEQUENCE)?;
    }
    for server in [&stage.blue, &stage.green] {
        server.run(ACCOUNTS).context("accounts")?;
    }
    if !stage.blue.version().is_mariadb() {
        same_password(&stage.blue, &stage.green, "clerk")?;
        same_password(&stage.blue, &stage.green, "app")?;
    }
    Ok(())
}

/// MySQL salts: a password has another hash each time that it is set. Green gets blue's.
fn same_password(blue: &Mysql, green: &Mysql, user: &str) -> Result<()> {
    let hash = format!("SELECT hex(authentication_string) FROM mysql.user WHERE user = '{user}'");
    let hash = blue.value(&hash)?;
    let set = "IDENTIFIED WITH caching_sha2_password AS";
    green.run(&format!("ALTER USER '{user}'@'%' {set} 0x{hash}"))
}

fn rows() -> String {
    let fill = |into: &str, columns: &str, count: u64| {
        format!("INSERT INTO {into} SELECT {columns} FROM {};", numbers(count))
    };
    [
        fill(
            "customer (id, name, born)",
            "n, concat('customer ', n), '2000-01-01' + interval n day",
            100,
        ),
        fill("item (id, title, cost)", "n, concat('item ', n), n", 50),
        fill("orders (id, customer, item, total)", "n, 1 + n % 100, 1 + n % 50, n", 300),
        fill("wide", "n, n, concat('b', n), concat('c', n), n", 500),
        fill("keyless", "n, concat('y', n)", 50),
        fill("spare", "n, concat('v', n)", 100),
        fill("other", "n, concat('o', n)", 600),
        fill("counted (v)", "n", 20),
        fill("label", "n, concat('wört ', n)", 50),
        fill("measure", "n, n", 1999),
        fill("measure_out", "n, -n", 300),
    ]
    .concat()
}
