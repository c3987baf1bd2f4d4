//! A schema change, as the source logged it.

use std::fmt;

use bytes::Bytes;

use super::schema::QualifiedName;

/// One statement that defines something anew, with what its outcome depends on.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    /// The source's own name for the transaction.
    pub place: String,
    /// What it does: `ALTER TABLE`.
    pub kind: &'static str,
    /// The tables or views that it may change, as row events name them.
    pub objects: Vec<QualifiedName>,
    /// The databases that it may change.
    pub databases: Vec<String>,
    /// The default database, which unqualified names belong to; empty for none.
    pub schema: String,
    /// The statement's bytes, in the character set that the settings say.
    pub statement: Bytes,
    /// The statement in UTF-8, for people.
    pub text: String,
    /// What the session had set that ran it.
    pub settings: Vec<Setting>,
    /// Whether a target can repeat it.
    pub safety: Safety,
    /// Whether rows that come behind it may need it.
    pub matters_to_rows: bool,
}

/// A session's setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value as an SQL expression.
    pub value: String,
}

/// Under which conditions a statement comes to the same on a target that has what the source had.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Safety {
    /// Never: why.
    pub refused: Option<String>,
    /// Only while the table has no rows: why.
    pub only_if_empty: Option<&'static str>,
    /// Columns that get another type: only if it holds every value, or while there are no rows.
    pub retyped: Vec<Retyped>,
    /// It names a character set without a collation, which servers know different defaults of.
    pub leaves_collation_open: bool,
}

/// A column that gets another type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retyped {
    /// Its name before.
    pub column: String,
    /// The new type without arguments, in lower case, as a catalog has it: `varchar`.
    pub data_type: String,
    /// Lengths and digits, in order.
    pub arguments: Vec<u32>,
    /// Labels of ENUM and SET, as they are written.
    pub labels: Vec<String>,
    /// UNSIGNED or ZEROFILL.
    pub unsigned: bool,
    /// The character set, if one is named.
    pub charset: Option<String>,
    /// The collation, if one is named.
    pub collation: Option<String>,
    /// NOT NULL, or a primary key.
    pub not_null: bool,
    /// AUTO_INCREMENT.
    pub auto_increment: bool,
}

impl Safety {
    /// Never repeated, because of this.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { refused: Some(why.into()), ..Self::default() }
    }
}

impl Definition {
    /// What it is about, for people and for comparing: `shop.a, shop.b`.
    pub fn names(&self) -> String {
        let objects = self.objects.iter().map(|name| format!("{}.{}", name.schema, name.name));
        objects.chain(self.databases.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}

/// Without the statement: it may hold what nobody should read in a log.
impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} at {}", self.kind, self.names(), self.place)
    }
}
