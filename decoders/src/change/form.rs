//! How the log of a source writes rows: what has to be the same elsewhere for their bytes to mean the
//! same there.

/// The form of a table's rows in a binlog. Of two tables with the same form each can hold what was written
/// for the other, byte by byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowForm {
    /// In the order of the row images.
    pub columns: Vec<ColumnForm>,
}

/// The form of a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnForm {
    /// The type's code in a table map.
    pub code: u8,
    /// What stands behind the code: lengths and digits.
    pub metadata: Vec<u8>,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether a number is unsigned.
    pub unsigned: bool,
    /// Of text, by the servers' name; `binary` for bytes.
    pub charset: Option<&'static str>,
    /// Of ENUM and SET, in their order.
    pub labels: Vec<String>,
    /// A type that is stored in another one, such as `uuid`.
    pub special: Option<&'static str>,
}
