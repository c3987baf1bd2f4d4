//! The kinds of changes, by what they touch. Names are stable: `--only` and the documents use them.

mod objects;
mod partitions;
mod rights;
mod tables;

/// What a change may leave behind when the cutover completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Nothing: green stays equal by itself, and the cutover has to complete.
    Harmless,
    /// A difference that the plan named: neither rows, rights nor results differ.
    Minor,
    /// No difference at all. Otherwise the cutover has to be refused.
    Major,
}

/// One kind of change on blue.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub impact: Impact,
    /// First major version that has it.
    pub since: u32,
    /// Needs the superuser; all others are the application's.
    pub is_administrators: bool,
    /// Run one after the other, each in a transaction of its own unless it says otherwise.
    pub sql: &'static [&'static str],
}

impl Kind {
    const fn new(name: &'static str, impact: Impact, sql: &'static [&'static str]) -> Kind {
        Kind { name, impact, since: 10, is_administrators: false, sql }
    }

    const fn since(mut self, major: u32) -> Kind {
        self.since = major;
        self
    }

    const fn by_administrator(mut self) -> Kind {
        self.is_administrators = true;
        self
    }
}

const fn major(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Major, sql)
}

const fn minor(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Minor, sql)
}

const fn harmless(name: &'static str, sql: &'static [&'static str]) -> Kind {
    Kind::new(name, Impact::Harmless, sql)
}

/// All of them, in a fixed order.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    let parts = [tables::KINDS, partitions::KINDS, objects::KINDS, rights::KINDS];
    parts.into_iter().flatten()
}
