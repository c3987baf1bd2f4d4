//! What differs and is no row, without a verification: for whoever is about to flip.

use cutover::Side;
use cutover::verify::ObjectFinding;
use decoders::mysql::catalog::TableInfo;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;

use super::definitions::{self, Scope};
use super::side::End;
use crate::verify::Trouble;

/// Compares all definitions of the source with the target's. Counters are left out, which every flip sets, and so is
/// what the flip itself brings.
///
/// # Errors
/// A server's.
pub(crate) async fn differences(
    [(from, source), (to, target)]: [(Side, ServerUrl); 2],
    database: Option<&str>,
    filter: &TableFilter,
) -> Result<Vec<ObjectFinding>, Trouble> {
    let read = async |side: Side, url: ServerUrl| {
        let end = End::find(side, url).await?;
        let tables = end.tables(database).await?;
        let tables: Vec<&TableInfo> =
            tables.iter().filter(|table| filter.selects(&table.name)).collect();
        let scope = Scope { database, is_whole: true };
        let mut reader = end.open().await?;
        let read = definitions::read(&mut reader, &end.server, &tables, scope).await?;
        super::side::close(reader).await;
        Ok::<_, Trouble>((end.server, read))
    };
    let ((one, here), (other, there)) = tokio::try_join!(read(from, source), read(to, target))?;
    Ok(definitions::compare_objects(&[here, there], [from, to], [&one, &other]))
}
