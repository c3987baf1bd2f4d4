//! A client's bytes: plain or TLS.

use decoders::MaybeTls;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A client.
pub(super) type ClientStream = MaybeTls<TlsStream<TcpStream>>;
