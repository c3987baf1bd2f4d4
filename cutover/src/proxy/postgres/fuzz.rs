//! See `proxy::fuzz`.

use super::customs::Customs;
use super::frames::Scanner;
use super::messages;
use super::startup::First;
use super::talk::{FromClient, FromServer, Talk};

/// The first packet of a connection.
pub fn startup(packet: &[u8]) {
    let Some(First::Startup(startup)) = First::parse(packet) else { return };
    let written = startup.packet(startup.database());
    let Some(First::Startup(again)) = First::parse(&written[4..]) else {
        panic!("what was written can't be read: {startup:?}")
    };
    assert_eq!((again.user(), again.database()), (startup.user(), startup.database()));
    assert_eq!(again.is_replication(), startup.is_replication());
}

/// A conversation: the first byte says where the client's bytes end and the server's begin, the second
/// in which portions they come. Portions make no difference.
pub fn turns(bytes: &[u8]) {
    let [split, portion, rest @ ..] = bytes else { return };
    let (client, server) = rest.split_at(usize::from(*split).min(rest.len()));
    let whole = converse(client, server, rest.len());
    let parts = converse(client, server, usize::from(*portion));
    match (whole, parts) {
        (Some(whole), Some(parts)) => assert_eq!(whole, parts),
        (None, None) => {}
        (whole, parts) => panic!("one was refused: {whole:?} {parts:?}"),
    }
}

/// What is known at the end. `None`: a message was refused.
fn converse(client: &[u8], server: &[u8], portion: usize) -> Option<String> {
    let portion = portion.max(1);
    let mut talk = Talk::new(Vec::new());
    let (mut up, mut down) = (Scanner::default(), Scanner::default());
    let mut is_good = true;
    for part in client.chunks(portion) {
        up.until_boundary(part).ok();
        is_good &= up.scan(part, &mut FromClient(&mut talk)).is_ok();
        if !is_good {
            return None;
        }
    }
    for part in server.chunks(portion) {
        is_good &= down.scan(part, &mut FromServer(&mut talk)).is_ok();
        if !is_good {
            return None;
        }
        messages::has_error(part);
        messages::columns(part);
        messages::error_fields(part);
    }
    let mut customs = Customs::default();
    customs.look(client);
    let turns = &talk.turns;
    assert!(!(turns.at_rest() && turns.is_streaming()));
    let bounds = (up.at_boundary(), down.at_boundary());
    Some(format!("{turns:?} {bounds:?} {:?}", talk.obstacle()))
}
