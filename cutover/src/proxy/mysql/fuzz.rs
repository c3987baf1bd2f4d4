//! See `proxy::fuzz`.

use bytes::BytesMut;

use super::hello::{Greeting, Hello};
use super::login::switched;
use super::packets::{Prepared, columns, error_of, status_of_eof, status_of_ok};
use super::places::Whom;
use super::talk::{Step, Talk};
use super::words::look;

/// A greeting, and an answer to one.
pub fn hello(body: &[u8]) {
    if let Some(greeting) = Greeting::parse(body) {
        for tls in [true, false] {
            let shown = Greeting::parse(&greeting.for_client(7, tls)).expect("what was written");
            assert_eq!((shown.id, shown.nonce), (7, greeting.nonce));
        }
    }
    if let Some(mut hello) = Hello::parse(body) {
        hello.program();
        hello.settle();
        // Servers read the one by the flags of the other.
        let login = hello.own_packet(true);
        assert_eq!(hello.ask_for_tls(hello.database.as_deref()), login[..32]);
        let again = Hello::parse(&login).expect("what was written");
        assert_eq!((again.user, again.database), (hello.user, hello.database));
    }
}

/// A conversation: the first byte says where the client's bytes end and the server's begin, the second
/// in which portions the server's come.
pub fn turns(bytes: &[u8]) {
    let [split, portion, rest @ ..] = bytes else { return };
    let (client, server) = rest.split_at(usize::from(*split).min(rest.len()));
    let mut talk = Talk::new(split % 2 == 0, 2);
    let mut inbox = BytesMut::from(client);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let whom = |number| if number % 2 == 0 { Whom::AsSaid } else { Whom::Number(number) };
    let mut parts = server.chunks(usize::from(*portion).max(1));
    loop {
        to_client.clear();
        let step = talk.send(&mut inbox, &mut to_server, &mut to_client, true, &whom);
        match step {
            Err(_) => return,
            Ok(Step::Nothing) => match parts.next() {
                Some(part) if talk.receive(part, &mut to_client).is_ok() => {}
                _ => break,
            },
            Ok(Step::Moved | Step::ChangeUser(..)) => {}
        }
    }
    talk.describe();
    talk.obstacle();
    assert!(talk.is_settled() || !talk.at_rest());
    for body in [client, server] {
        columns(body);
        error_of(body);
        // Each may be refused.
        drop((switched(body), status_of_ok(body), status_of_eof(body), Prepared::parse(body)));
    }
}

/// A statement.
pub fn words(sql: &[u8]) {
    let said = look(sql);
    // Case means nothing, but in `/*M!`.
    if !sql.windows(2).any(|pair| pair == b"/*") {
        assert_eq!(said, look(&sql.to_ascii_uppercase()));
        assert_eq!(said, look(&sql.to_ascii_lowercase()));
    }
}
