use bytes::BufMut;

use super::super::packets::{EOF, ERR, OK};
use super::*;
use crate::proxy::mysql::packets::packet;

/// A session under test and what both sides have got.
struct Played {
    talk: Talk,
    inbox: BytesMut,
    server: Vec<u8>,
    client: Vec<u8>,
}

impl Played {
    fn new(ends_with_ok: bool) -> Self {
        let talk = Talk::new(ends_with_ok, 2);
        Self { talk, inbox: BytesMut::new(), server: Vec::new(), client: Vec::new() }
    }

    /// The client sends a command.
    fn command(&mut self, kind: u8, rest: &[u8]) -> Step {
        self.says(0, &[&[kind], rest].concat());
        self.send()
    }

    /// The client's bytes come.
    fn says(&mut self, seq: u8, body: &[u8]) {
        let mut bytes = Vec::new();
        packet(&mut bytes, seq, body);
        self.inbox.extend_from_slice(&bytes);
    }

    fn send(&mut self) -> Step {
        let number = |shown| match shown {
            7 => Whom::Number(4_000),
            9 => Whom::Unknown,
            _ => Whom::AsSaid,
        };
        // The client has read what came before.
        let (server, mut told) = (&mut self.server, Vec::new());
        let step = self.talk.send(&mut self.inbox, server, &mut told, true, &number).unwrap();
        self.client.extend(told);
        step
    }

    fn query(&mut self, sql: &str) {
        self.command(com::QUERY, sql.as_bytes());
    }

    /// The server sends packets.
    fn answer(&mut self, bodies: &[&[u8]]) {
        let mut bytes = Vec::new();
        for (at, body) in bodies.iter().enumerate() {
            packet(&mut bytes, at as u8 + 1, body);
        }
        self.talk.receive(&bytes, &mut self.client).unwrap();
    }
}

const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a";
const DONE: &[u8] = &[OK, 0, 0, 2, 0, 0, 0];
const BEGUN: &[u8] = &[OK, 0, 0, 3, 0, 0, 0];
const END: &[u8] = &[EOF, 0, 0, 2, 0];
const FAILED: &[u8] = b"\xff\x28\x04#42000no";

fn end_with(status: u16) -> Vec<u8> {
    [&[EOF, 0, 0][..], &status.to_le_bytes()].concat()
}

#[test]
fn an_answer_ends_where_it_ends() {
    let answers: [&[&[u8]]; 5] = [
        &[DONE],
        &[FAILED],
        &[&[1], DEFINITION, END, b"\x01x", &[0xfb], END],
        &[&[2], DEFINITION, DEFINITION, END, END],
        &[&[1], DEFINITION, END, b"\x01x", FAILED],
    ];
    for answer in answers {
        let mut played = Played::new(false);
        played.query("select 1");
        for (at, body) in answer.iter().enumerate() {
            assert!(!played.talk.at_rest(), "{answer:?} {at}");
            played.answer(&[body]);
        }
        assert!(played.talk.at_rest(), "{answer:?}");
    }
}

#[test]
fn rows_may_end_with_an_ok() {
    let mut played = Played::new(true);
    played.query("select 1");
    let end = [EOF, 0, 0, 2, 0, 0, 0];
    let long_row = [&[EOF][..], &[7; 30]].concat();
    played.answer(&[&[1], DEFINITION, b"\x01x"]);
    assert!(!played.talk.at_rest());
    played.answer(&[&end]);
    assert!(played.talk.at_rest());
    // Behind the end nothing is looked at any more.
    played.answer(&[&long_row]);
    assert!(played.talk.is_settled());
}

#[test]
fn a_transaction_is_open_until_its_end_is_told() {
    let mut played = Played::new(false);
    played.query("begin");
    played.answer(&[BEGUN]);
    assert!(played.talk.is_settled() && !played.talk.at_rest());
    assert_eq!(played.talk.describe(), "in a transaction");
    played.query("insert");
    played.answer(&[FAILED]);
    assert!(played.talk.uncertain);
    played.query("commit");
    played.answer(&[DONE]);
    assert!(played.talk.at_rest() && !played.talk.uncertain);
}

#[test]
fn several_results_are_one_answer() {
    let mut played = Played::new(false);
    played.query("select 1; update t; select 2");
    played.answer(&[&[1], DEFINITION, END, b"\x01x", &end_with(2 | 8)]);
    assert!(!played.talk.is_settled());
    played.answer(&[&[OK, 1, 0, 10, 0, 0, 0]]);
    assert!(!played.talk.is_settled());
    played.answer(&[&[1], DEFINITION, END, END]);
    assert!(played.talk.at_rest());
}

#[test]
fn one_command_is_under_way_at_a_time() {
    let mut played = Played::new(false);
    played.says(0, b"\x03select 1");
    played.says(0, b"\x03select 2");
    assert_eq!(played.send(), Step::Moved);
    assert_eq!(played.server.len(), 13);
    assert_eq!(played.send(), Step::Nothing);
    played.answer(&[DONE]);
    let mut nothing = Vec::new();
    let inbox = &mut played.inbox;
    let held = played.talk.send(inbox, &mut nothing, &mut Vec::new(), false, &|_| Whom::AsSaid);
    assert_eq!((held.unwrap(), nothing.len()), (Step::Nothing, 0));
    assert_eq!(played.send(), Step::Moved);
    assert_eq!(&played.server[13..], b"\x09\0\0\0\x03select 2");
}

#[test]
fn who_does_not_read_gets_nothing_more() {
    let mut played = Played::new(false);
    for _ in 0..3 {
        played.says(0, &[0x12]);
    }
    let left = played.inbox.len();
    played.send();
    assert!(played.inbox.len() < left && !played.inbox.is_empty());
    let rest = played.inbox.clone();
    let (inbox, server) = (&mut played.inbox, &mut played.server);
    let mut unread = vec![1];
    let step = played.talk.send(inbox, server, &mut unread, true, &|_| Whom::AsSaid);
    assert_eq!((step.unwrap(), &rest, unread.len()), (Step::Nothing, &played.inbox, 1));
}

#[test]
fn a_session_that_begins_anew_is_asked_anew() {
    let mut played = Played::new(false);
    played.command(com::SET_OPTION, &[0, 0]);
    played.answer(&[END]);
    played.command(com::RESET_CONNECTION, b"");
    assert!(!played.talk.anew);
    played.answer(&[DONE]);
    assert!(played.talk.anew);
    // Which the server leaves as it was.
    assert_eq!(played.talk.option, Some(0));
}

#[test]
fn portions_make_no_difference() {
    let mut bytes = Vec::new();
    let big = vec![b'x'; 300];
    for (at, body) in [&[1][..], DEFINITION, END, &big, &end_with(3)].iter().enumerate() {
        packet(&mut bytes, at as u8 + 1, body);
    }
    for portion in 1..bytes.len() {
        let mut played = Played::new(false);
        played.query("select x");
        for part in bytes.chunks(portion) {
            assert!(!played.talk.is_settled());
            played.talk.receive(part, &mut played.client).unwrap();
        }
        assert!(played.talk.is_settled() && !played.talk.at_rest(), "{portion}");
        assert_eq!(played.client, bytes, "{portion}");
    }
}

#[test]
fn a_file_goes_to_the_server_up_to_its_end() {
    let mut played = Played::new(false);
    played.query("load data local infile 'x' into table t");
    played.answer(&[b"\xfbx"]);
    assert_eq!(played.talk.describe(), "in a LOAD DATA LOCAL");
    let mut file = Vec::new();
    packet(&mut file, 2, b"\x03not a command");
    packet(&mut file, 3, b"");
    let before = played.server.len();
    for byte in &file {
        assert!(!played.talk.is_settled());
        played.inbox.put_u8(*byte);
        played.send();
    }
    assert_eq!(&played.server[before..], file);
    assert!(!played.talk.is_settled());
    played.answer(&[DONE]);
    assert!(played.talk.at_rest());
}

/// A statement that the server calls 70 and that has two parameters.
fn prepare(played: &mut Played) -> u32 {
    played.command(com::PREPARE, b"select ? + ?");
    let before = played.client.len();
    played.answer(&[
        &[OK, 70, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0],
        DEFINITION,
        DEFINITION,
        END,
        DEFINITION,
        END,
    ]);
    assert!(played.talk.at_rest());
    let number = played.client[before + 5..before + 9].try_into().unwrap();
    u32::from_le_bytes(number)
}

fn execute(number: u32, types: Option<&[u8]>) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
    body.push(u8::from(types.is_some()));
    body.extend_from_slice(types.unwrap_or_default());
    body.extend_from_slice(b"values");
    body
}

#[test]
fn a_statement_keeps_its_number_and_the_types_of_its_parameters() {
    let mut played = Played::new(false);
    let number = prepare(&mut played);
    let types = [8, 0, 3, 0];
    let run = |played: &mut Played, types: Option<&[u8]>| {
        let before = played.server.len();
        played.command(com::EXECUTE, &execute(number, types));
        played.answer(&[DONE]);
        played.server[before..].to_vec()
    };
    let sent = |server: u32, types: Option<&[u8]>| {
        let mut out = Vec::new();
        packet(&mut out, 0, &[&[com::EXECUTE], &execute(server, types)[..]].concat());
        out
    };
    assert_eq!(run(&mut played, Some(&types)), sent(70, Some(&types)));
    assert_eq!(run(&mut played, None), sent(70, None));
    assert_eq!(played.talk.obstacle(), None);
    // Another server has to be told the types once.
    played.talk.statements.moved(&[5]);
    assert_eq!(run(&mut played, None), sent(5, Some(&types)));
    assert_eq!(run(&mut played, None), sent(5, None));
    played.command(com::CLOSE, &number.to_le_bytes());
    assert!(played.server.ends_with(&[com::CLOSE, 5, 0, 0, 0]));
    assert!(played.talk.at_rest());
    // Nobody's number is not by chance somebody's.
    played.command(com::RESET, &5_u32.to_le_bytes());
    assert!(!played.server.ends_with(&[com::RESET, 5, 0, 0, 0]));
}

#[test]
fn what_a_statement_keeps_on_the_server_ties_it() {
    let mut played = Played::new(false);
    let number = prepare(&mut played);
    played.command(com::LONG_DATA, &[&number.to_le_bytes()[..], b"\0\0data"].concat());
    assert!(played.talk.is_settled() && !played.talk.at_rest());
    played.command(com::EXECUTE, &execute(number, Some(&[8, 0, 3, 0])));
    // With a cursor the rows come later.
    played.answer(&[&[1], DEFINITION, &end_with(2 | 64)]);
    assert_eq!(played.talk.obstacle(), Some("an open cursor"));
    assert!(played.talk.at_rest());
    played.command(com::FETCH, &[&number.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
    played.answer(&[b"\0\0x", &end_with(2 | 64)]);
    assert_eq!(played.talk.obstacle(), Some("an open cursor"));
    played.command(com::FETCH, &[&number.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
    played.answer(&[&end_with(2 | 128)]);
    assert_eq!(played.talk.obstacle(), None);
    // In another schema it would be another statement.
    played.command(com::INIT_DB, b"other");
    played.answer(&[DONE]);
    assert!(played.talk.obstacle().unwrap().contains("schema"));
    played.command(com::RESET_CONNECTION, b"");
    played.answer(&[DONE]);
    assert_eq!(played.talk.obstacle(), None);
}

#[test]
fn a_level_for_the_next_transaction_belongs_to_it() {
    let mut played = Played::new(false);
    played.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    played.answer(&[DONE]);
    assert!(played.talk.is_settled() && !played.talk.at_rest());
    played.command(com::PING, b"");
    played.answer(&[DONE]);
    assert!(!played.talk.at_rest());
    // No table, no transaction.
    played.query("select 1");
    played.answer(&[DONE]);
    assert!(!played.talk.at_rest());
    played.query("BEGIN");
    played.answer(&[BEGUN]);
    played.query("COMMIT");
    played.answer(&[DONE]);
    assert!(played.talk.at_rest());
    played.query("SET @@transaction_isolation = 'SERIALIZABLE'");
    played.answer(&[DONE]);
    assert!(!played.talk.at_rest());
    played.query("select a from t");
    played.answer(&[DONE]);
    assert!(played.talk.at_rest());
}

#[test]
fn what_is_not_passed_on_is_answered() {
    let mut played = Played::new(false);
    played.command(0x12, b"binlog");
    assert!(played.server.is_empty() && played.inbox.is_empty());
    assert_eq!(played.client[3..5], [1, ERR]);
    assert!(played.talk.at_rest());
    let changed = played.command(com::CHANGE_USER, b"app\0\0\0");
    assert_eq!(changed, Step::ChangeUser(0, b"\x11app\0\0\0".to_vec()));
    // Only where we have asked something in between.
    played.client.clear();
    played.query("SHOW WARNINGS");
    played.answer(&[DONE]);
    played.talk.disturbed = true;
    played.client.clear();
    played.query("SHOW WARNINGS");
    assert_eq!(played.client[4], ERR);
    played.query("select 1");
    played.answer(&[DONE]);
    assert!(!played.talk.disturbed);
}

#[test]
fn a_command_of_several_packets_is_one() {
    let mut played = Played::new(false);
    let mut bytes = vec![0xff, 0xff, 0xff, 0, com::QUERY];
    bytes.resize(HEADER + FULL, b' ');
    packet(&mut bytes, 1, b"\x03rest");
    for part in bytes.chunks(1 << 20) {
        played.inbox.extend_from_slice(part);
        played.send();
    }
    assert_eq!(played.server, bytes);
    assert!(!played.talk.is_settled());
    // So is a row.
    played.answer(&[&[1], DEFINITION, END]);
    let mut row = vec![0xff, 0xff, 0xff, 4];
    row.resize(HEADER + FULL, EOF);
    packet(&mut row, 5, END);
    let before = played.client.len();
    played.talk.receive(&row, &mut played.client).unwrap();
    assert_eq!(&played.client[before..], row);
    assert!(!played.talk.is_settled());
    played.answer(&[END]);
    assert!(played.talk.at_rest());
}

#[test]
fn who_is_killed_is_known_by_the_server_s_number() {
    let mut played = Played::new(false);
    played.query("KILL QUERY 7;");
    assert_eq!(played.server, b"\x11\0\0\0\x03KILL QUERY 4000;");
    played.answer(&[DONE]);
    played.server.clear();
    played.command(com::PROCESS_KILL, &7_u32.to_le_bytes());
    assert_eq!(played.server, [5, 0, 0, 0, com::PROCESS_KILL, 0xa0, 0x0f, 0, 0]);
    played.answer(&[DONE]);
    played.server.clear();
    played.query("KILL 8");
    assert_eq!(played.server, b"\x07\0\0\0\x03KILL 8");
    played.answer(&[DONE]);
    // The server would take it for somebody else.
    played.server.clear();
    for command in [&b"\x03KILL 9"[..], &[com::PROCESS_KILL, 9, 0, 0, 0]] {
        played.client.clear();
        played.command(command[0], &command[1..]);
        assert!(played.server.is_empty() && played.talk.at_rest());
        assert_eq!(played.client[4..7], [ERR, 0x46, 0x04]);
    }
}
