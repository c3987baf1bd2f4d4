//! Random conversations with a little server that obeys the manual ("Message Flow"): the session is
//! never taken for idle while the server has something of it, whatever overtakes what.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a client does next.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// A Query that leaves the transaction as it is, begins one, ends one, or fails.
    Query(Effect),
    /// Parse, Bind, Describe, Execute without a Sync yet.
    Extended(Effect),
    Sync,
    Flush,
    FunctionCall,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Effect {
    None,
    Begin,
    End,
    Fail,
}

/// A server: takes messages in order, answers each in order.
#[derive(Debug, Default)]
struct Server {
    inbox: VecDeque<Does>,
    /// Between an error in the extended protocol and its Sync.
    skips: bool,
    /// A message of the extended protocol since the last Sync.
    implicit: bool,
    block: Block,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Block {
    #[default]
    None,
    Open,
    Failed,
}

impl Server {
    fn status(&self) -> u8 {
        match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        }
    }

    fn effect(&mut self, effect: Effect) -> bool {
        let fails =
            effect == Effect::Fail || (self.block == Block::Failed && effect != Effect::End);
        self.block = match (fails, effect, self.block) {
            (true, _, Block::None) => Block::None,
            (true, ..) => Block::Failed,
            (_, Effect::Begin, _) => Block::Open,
            (_, Effect::End, _) => Block::None,
            (_, _, block) => block,
        };
        fails
    }

    /// Works off one message and gives its answers.
    fn step(&mut self) -> Vec<(u8, u8)> {
        match self.inbox.pop_front() {
            None => Vec::new(),
            Some(Does::Sync) => {
                self.skips = false;
                self.implicit = false;
                vec![(b'Z', self.status())]
            }
            Some(_) if self.skips => Vec::new(),
            Some(Does::Query(effect)) => {
                self.implicit = false;
                let tag = if self.effect(effect) { b'E' } else { b'C' };
                vec![(tag, 0), (b'Z', self.status())]
            }
            Some(Does::FunctionCall) => {
                self.implicit = false;
                vec![(b'V', 0), (b'Z', self.status())]
            }
            Some(Does::Extended(effect)) => {
                self.implicit = true;
                match self.effect(effect) {
                    true => {
                        self.skips = true;
                        vec![(b'E', 0)]
                    }
                    false => vec![(b'1', 0), (b'2', 0), (b'C', 0)],
                }
            }
            Some(Does::Flush) => Vec::new(),
        }
    }

    /// Nothing of the session is here: no transaction, nothing to work off.
    fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.block == Block::None && !self.implicit && !self.skips
    }
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        3 => Just(Effect::None),
        1 => Just(Effect::Begin),
        2 => Just(Effect::End),
        1 => Just(Effect::Fail),
    ]
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        3 => effect().prop_map(Does::Query),
        3 => effect().prop_map(Does::Extended),
        4 => Just(Does::Sync),
        1 => Just(Does::Flush),
        1 => Just(Does::FunctionCall),
    ]
}

/// A Query or FunctionCall between an Execute and its Sync: after an error the server swallows it,
/// and nobody can tell from the messages. Such a session counts as busy for good.
fn mixes(script: &[Does]) -> bool {
    let mut open = false;
    script.iter().any(|does| match does {
        Does::Extended(_) | Does::Flush => {
            open = true;
            false
        }
        Does::Sync => {
            open = false;
            false
        }
        Does::Query(_) | Does::FunctionCall => open,
    })
}

fn tell(turns: &mut Turns, does: Does) {
    match does {
        Does::Query(_) => turns.client(b'Q'),
        Does::Extended(_) => b"PBDE".iter().for_each(|tag| turns.client(*tag)),
        Does::Sync => turns.client(b'S'),
        Does::Flush => turns.client(b'H'),
        Does::FunctionCall => turns.client(b'F'),
    }
}

fn hear(turns: &mut Turns, answers: &mut VecDeque<(u8, u8)>) {
    match answers.pop_front() {
        Some((b'Z', status)) => turns.ready(status),
        Some((tag, _)) => turns.server(tag),
        None => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// `order` says who gets a move: the client, the server, or the wire back.
    #[test]
    fn a_session_is_idle_only_when_its_server_is(
        script in vec(does(), 0..20),
        order in vec(0..3_u8, 0..80),
    ) {
        let (mut turns, mut server) = (Turns::new(), Server::default());
        let followable = !mixes(&script);
        let (mut script, mut answers) = (VecDeque::from(script), VecDeque::new());
        for who in order {
            match who {
                0 => if let Some(does) = script.pop_front() {
                    tell(&mut turns, does);
                    server.inbox.push_back(does);
                },
                1 => answers.extend(server.step()),
                _ => hear(&mut turns, &mut answers),
            }
            let idle = server.is_idle() && !answers.iter().any(|(tag, _)| *tag == b'Z');
            prop_assert!(!turns.at_rest() || idle, "{turns:?} {server:?}");
        }
        // And it is, once everything has come to its end.
        for does in script.into_iter().chain([Does::Sync, Does::Query(Effect::End)]) {
            tell(&mut turns, does);
            server.inbox.push_back(does);
        }
        while !server.inbox.is_empty() {
            answers.extend(server.step());
        }
        while !answers.is_empty() {
            hear(&mut turns, &mut answers);
        }
        prop_assert!(server.is_idle());
        prop_assert!(turns.at_rest() || !followable, "{turns:?} {server:?}");
    }
}
