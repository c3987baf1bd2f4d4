//! The kinds of changes, by engine and by what they touch. Names are stable: `--only` and the
//! documents use them.

mod mysql;
mod postgres;

use super::Engine;

/// What a change may leave behind when the cutover completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Nothing: green stays equal by itself, and the cutover has to complete.
    Harmless,
    /// A difference that the plan named: neither rows nor results differ, and green refuses nobody whom blue
    /// takes.
    Minor,
    /// No difference at all. Otherwise the cutover has to be refused.
    Major,
    /// Rows that are in no log, and as many as before: `cutover verify` alone can find them, so it runs before
    /// the cutover, which then has to be refused.
    Verified,
}

/// One kind of change on blue.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub impact: Impact,
    /// First major version of PostgreSQL that has it.
    pub since: u32,
    /// Needs the superuser of PostgreSQL; all others are the application's there.
    pub is_administrators: bool,
    /// The one engine that has it, of those that share a list.
    pub of: Option<Engine>,
    /// Run one after the other, each in a transaction of its own unless it says otherwise.
    pub sql: &'static [&'static str],
}

impl Kind {
    const fn new(name: &'static str, impact: Impact, sql: &'static [&'static str]) -> Kind {
        Kind { name, impact, since: 10, is_administrators: false, of: None, sql }
    }

    const fn since(mut self, major: u32) -> Kind {
        self.since = major;
        self
    }

    const fn by_administrator(mut self) -> Kind {
        self.is_administrators = true;
        self
    }

    const fn of(mut self, engine: Engine) -> Kind {
        self.of = Some(engine);
        self
    }
}

const fn major(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Major, sql)
}

const fn minor(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Minor, sql)
}

const fn verified(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Verified, sql)
}

const fn harmless(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Harmless, sql)
}

/// All of an engine, in a fixed order.
pub fn all(engine: Engine) -> impl Iterator<Item = &'static Kind> {
    let postgres = (engine == Engine::Postgres).then(postgres::all);
    let mysql = (engine != Engine::Postgres).then(mysql::all);
    let all = postgres.into_iter().flatten().chain(mysql.into_iter().flatten());
    all.filter(move |kind| kind.of.is_none_or(|of| of == engine))
}
