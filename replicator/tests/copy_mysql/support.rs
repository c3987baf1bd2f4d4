//! Pairs of servers.

use anyhow::Result;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use replicator::schema::mysql::SchemaCopy;
use tests::mysql::{Mysql, Version};

/// The moves that are tested: to the same version, and to a newer one where there is one.
pub const PAIRS: [(Version, Version); 3] = [
    (Version::Mariadb10_11, Version::Mariadb11_8),
    (Version::Mariadb11_8, Version::Mariadb11_8),
    (Version::Mysql9_7, Version::Mysql9_7),
];

/// The pipeline's name.
pub const PIPELINE: &str = "main";

pub fn pair((blue, green): (Version, Version)) -> Result<(Mysql, Mysql)> {
    let (blue, green) = (Mysql::start(blue, &[])?, Mysql::start(green, &[])?);
    for server in [&blue, &green] {
        server
            .run("create user 'mover'@'%' identified by 'x'; grant all on *.* to 'mover'@'%';")?;
        if !server.version().is_mariadb() {
            server.run("set global log_bin_trust_function_creators = on")?;
        }
    }
    Ok((blue, green))
}

pub fn url(server: &Mysql) -> ServerUrl {
    ServerUrl::parse(&format!("mysql://mover:x@127.0.0.1:{}/", server.port())).expect("a URL")
}

pub fn schema_copy(blue: &Mysql, green: &Mysql) -> SchemaCopy {
    SchemaCopy {
        pipeline: PIPELINE.into(),
        blue: url(blue),
        green: url(green),
        database: None,
        filter: TableFilter::default(),
        late_keys_bytes: 0,
    }
}
