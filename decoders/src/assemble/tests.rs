//! The rules of a stream, one by one.

use bytes::Bytes;

use super::*;
use crate::change::{Cell, Column, OldRow, QualifiedName, ReplicaIdentity, Row, TableId};
use crate::postgres::pgoutput::{LogicalMessage, Origin, Relation};

const ID: TableId = TableId(16_400);

fn begin(xid: u32, lsn: u64) -> Message {
    Message::Begin(Begin { final_lsn: Lsn(lsn), committed_at_us: 7, xid })
}

fn commit(lsn: u64) -> Message {
    let (commit_lsn, end_lsn) = (Lsn(lsn), Lsn(lsn + 8));
    Message::Commit(Commit { commit_lsn, end_lsn, committed_at_us: 7 })
}

/// Two columns, `id` and `big`; the first is the key unless the identity says otherwise.
fn relation(identity: ReplicaIdentity) -> Message {
    let column =
        |name: &str, in_key| Column { name: name.into(), type_oid: 25, type_modifier: -1, in_key };
    let full = identity == ReplicaIdentity::Full;
    let keyed = identity != ReplicaIdentity::Nothing;
    Message::Relation(Relation(TableSchema {
        id: ID,
        name: QualifiedName::new("public", "t"),
        identity,
        columns: vec![column("id", keyed), column("big", full)],
    }))
}

fn text(text: &str) -> Cell<'_> {
    Cell::text(text)
}

fn row<const N: usize>(cells: [Cell<'_>; N]) -> Row {
    Row::from(Vec::from(cells))
}

fn insert<const N: usize>(cells: [Cell<'_>; N]) -> Message {
    Message::Insert(Insert { table: ID, new: row(cells) })
}

fn update(old: Option<OldRow>, new: [Cell<'_>; 2]) -> Message {
    Message::Update(Update { table: ID, old, new: row(new) })
}

fn delete(old: OldRow) -> Message {
    Message::Delete(Delete { table: ID, old })
}

/// Begin and the table's description, then `message`.
fn after_begin(
    identity: ReplicaIdentity,
    message: Message,
) -> Result<Option<Transaction>, AssembleError> {
    let mut assembler = Assembler::default();
    assert_eq!(assembler.push(begin(1, 100), 21), Ok(None));
    assert_eq!(assembler.push(relation(identity), 50), Ok(None));
    assembler.push(message, 30)?;
    assembler.push(commit(100), 26)
}

fn only_change(identity: ReplicaIdentity, message: Message) -> Result<ChangeEvent, AssembleError> {
    let transaction = after_begin(identity, message)?.expect("the commit completes it");
    assert_eq!(transaction.changes.len(), 1);
    Ok(transaction.changes.into_iter().next().expect("there is one"))
}

fn refusal(identity: ReplicaIdentity, message: Message) -> RowError {
    match after_begin(identity, message) {
        Err(AssembleError::Row { kind, .. }) => kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_transaction_is_whole_and_carries_its_origin() {
    let mut assembler = Assembler::default();
    assert!(!assembler.is_open());
    assembler.push(begin(9, 100), 21).unwrap();
    assert!(assembler.is_open());
    let origin = Origin { origin_lsn: Lsn(1), name: "far".into() };
    assembler.push(Message::Origin(origin), 13).unwrap();
    assembler.push(relation(ReplicaIdentity::Default), 50).unwrap();
    assembler.push(insert([text("1"), Cell::NULL]), 30).unwrap();
    let transaction = assembler.push(commit(100), 26).unwrap().unwrap();
    assert!(!assembler.is_open());
    assert_eq!((transaction.part, transaction.xid), (Part::Whole, 9));
    assert_eq!((transaction.commit_lsn, transaction.end_lsn), (Lsn(100), Some(Lsn(108))));
    assert_eq!((transaction.committed_at_us, transaction.origin.as_deref()), (7, Some("far")));
    assert!(transaction.bytes >= 30);
}

#[test]
fn strays_are_refused() {
    for message in [
        commit(1),
        Message::Origin(Origin { origin_lsn: Lsn(1), name: "far".into() }),
        insert([text("1"), Cell::NULL]),
        Message::Truncate(Truncate { tables: vec![], cascade: false, restart_identity: false }),
        message(true),
    ] {
        let mut assembler = Assembler::default();
        assembler.push(relation(ReplicaIdentity::Default), 50).unwrap();
        assert!(matches!(assembler.push(message, 1), Err(AssembleError::Stray(_))));
    }
}

fn message(transactional: bool) -> Message {
    Message::Logical(LogicalMessage {
        transactional,
        lsn: Lsn(5),
        prefix: "cutover.marker".into(),
        content: Bytes::from_static(b"x"),
    })
}

#[test]
fn messages_of_a_transaction_are_changes_and_others_pass_by() {
    let mut assembler = Assembler::default();
    assert_eq!(assembler.push(message(false), 30), Ok(None));
    assembler.push(begin(1, 100), 21).unwrap();
    assert_eq!(assembler.push(message(false), 30), Ok(None));
    assembler.push(message(true), 30).unwrap();
    let transaction = assembler.push(commit(100), 26).unwrap().unwrap();
    assert!(matches!(&transaction.changes[..], [ChangeEvent::Message { .. }]));
}

#[test]
fn transactions_do_not_nest() {
    let mut assembler = Assembler::default();
    assembler.push(begin(1, 100), 21).unwrap();
    let error = AssembleError::NestedBegin { outer: 1, inner: 2 };
    assert_eq!(assembler.push(begin(2, 200), 21), Err(error));
}

#[test]
fn a_commit_is_the_one_that_was_begun() {
    let mut assembler = Assembler::default();
    assembler.push(begin(1, 100), 21).unwrap();
    let error = AssembleError::OtherCommit { xid: 1, begun: Lsn(100), committed: Lsn(101) };
    assert_eq!(assembler.push(commit(101), 26), Err(error));
}

#[test]
fn commits_do_not_go_backwards() {
    let mut assembler = Assembler::default();
    assembler.push(begin(1, 100), 21).unwrap();
    assembler.push(commit(100), 26).unwrap();
    assembler.push(begin(2, 107), 21).unwrap();
    let error = AssembleError::OutOfOrder { earlier: Lsn(108), later: Lsn(107), end: Lsn(115) };
    assert_eq!(assembler.push(commit(107), 26), Err(error));
}

#[test]
fn a_row_needs_a_described_table_of_its_width() {
    let mut assembler = Assembler::default();
    assembler.push(begin(1, 100), 21).unwrap();
    let unknown = assembler.push(insert([text("1"), Cell::NULL]), 30);
    assert_eq!(unknown, Err(AssembleError::UnknownTable(ID)));
    let kind = refusal(ReplicaIdentity::Default, insert([text("1")]));
    assert_eq!(kind, RowError::Width { expected: 2, found: 1 });
    let kind = refusal(ReplicaIdentity::Default, delete(OldRow::Key(row([text("1")]))));
    assert_eq!(kind, RowError::Width { expected: 2, found: 1 });
}

#[test]
fn an_insert_has_no_gaps() {
    let kind = refusal(ReplicaIdentity::Default, insert([text("1"), Cell::Unchanged]));
    assert_eq!(kind, RowError::Gap(1));
}

#[test]
fn a_changed_description_is_a_new_one_and_the_same_is_shared() {
    let mut assembler = Assembler::default();
    assembler.push(begin(1, 100), 21).unwrap();
    for identity in [ReplicaIdentity::Default, ReplicaIdentity::Default, ReplicaIdentity::Index] {
        assembler.push(relation(identity), 50).unwrap();
        assembler.push(insert([text("1"), Cell::NULL]), 30).unwrap();
    }
    let transaction = assembler.push(commit(100), 26).unwrap().unwrap();
    let tables: Vec<_> = transaction
        .changes
        .iter()
        .map(|change| match change {
            ChangeEvent::Insert { table, .. } => table,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(Arc::ptr_eq(tables[0], tables[1]));
    assert_eq!(tables[1].identity, ReplicaIdentity::Default);
    assert_eq!(tables[2].identity, ReplicaIdentity::Index);
}

#[test]
fn gaps_are_filled_from_a_full_old_row() {
    let old = OldRow::Full(row([text("1"), text("toasted")]));
    let change = update(Some(old), [text("2"), Cell::Unchanged]);
    let ChangeEvent::Update { new, .. } = only_change(ReplicaIdentity::Full, change).unwrap()
    else {
        panic!("not an update")
    };
    assert_eq!(new, row([text("2"), text("toasted")]));
}

#[test]
fn a_gap_in_the_key_is_filled_from_the_old_key_and_others_stay() {
    let old = OldRow::Key(row([text("1"), Cell::NULL]));
    let change = update(Some(old), [Cell::Unchanged, Cell::Unchanged]);
    let ChangeEvent::Update { new, .. } = only_change(ReplicaIdentity::Default, change).unwrap()
    else {
        panic!("not an update")
    };
    assert_eq!(new, row([text("1"), Cell::Unchanged]));
}

#[test]
fn a_gap_that_the_old_row_calls_null_is_a_contradiction() {
    let old = OldRow::Full(row([text("1"), Cell::NULL]));
    let change = update(Some(old), [text("2"), Cell::Unchanged]);
    assert_eq!(refusal(ReplicaIdentity::Full, change), RowError::OldImage);
}

#[test]
fn a_row_that_cannot_be_found_is_refused() {
    let default = ReplicaIdentity::Default;
    let change = update(None, [Cell::Unchanged, text("x")]);
    assert_eq!(refusal(default, change), RowError::Gap(0));
    let change = update(None, [Cell::NULL, text("x")]);
    assert_eq!(refusal(default, change), RowError::NullInKey(0));
    let change = delete(OldRow::Key(row([Cell::NULL, text("x")])));
    assert_eq!(refusal(default, change), RowError::NullInKey(0));
    let change = delete(OldRow::Key(row([Cell::Unchanged, Cell::NULL])));
    assert_eq!(refusal(default, change), RowError::Gap(0));
    let change = delete(OldRow::Key(row([text("1"), Cell::NULL])));
    assert_eq!(refusal(ReplicaIdentity::Nothing, change), RowError::NoKey);
    let change = update(None, [text("1"), Cell::NULL]);
    assert_eq!(refusal(ReplicaIdentity::Nothing, change), RowError::NoKey);
}

#[test]
fn the_old_image_fits_the_identity() {
    let image = || row([text("1"), text("x")]);
    let change = update(None, [text("1"), text("x")]);
    assert_eq!(refusal(ReplicaIdentity::Full, change), RowError::OldImage);
    let change = delete(OldRow::Key(image()));
    assert_eq!(refusal(ReplicaIdentity::Full, change), RowError::OldImage);
    let change = delete(OldRow::Full(image()));
    assert_eq!(refusal(ReplicaIdentity::Index, change), RowError::OldImage);
}

#[test]
fn a_large_transaction_comes_in_parts_that_add_up() {
    let mut assembler = Assembler::new(1_000);
    assembler.push(begin(1, 100), 21).unwrap();
    assembler.push(relation(ReplicaIdentity::Default), 50).unwrap();
    let mut parts = Vec::new();
    for _ in 0..7 {
        let part = assembler.push(insert([text("1"), Cell::NULL]), 400).unwrap();
        parts.extend(part);
        assert!(assembler.is_open());
    }
    parts.extend(assembler.push(commit(100), 26).unwrap());
    let shape: Vec<_> =
        parts.iter().map(|part| (part.part, part.changes.len(), part.end_lsn)).collect();
    let end = Some(Lsn(108));
    let expected = [
        (Part::First, 2, None),
        (Part::Middle, 2, None),
        (Part::Middle, 2, None),
        (Part::Last, 1, end),
    ];
    assert_eq!(shape, expected);
    assert!(parts.iter().all(|part| (part.xid, part.commit_lsn) == (1, Lsn(100))));
}

#[test]
fn a_truncate_names_all_its_tables() {
    let truncate = |id| {
        Message::Truncate(Truncate { tables: vec![ID, id], cascade: true, restart_identity: true })
    };
    let change = only_change(ReplicaIdentity::Nothing, truncate(ID)).unwrap();
    let ChangeEvent::Truncate { tables, cascade: true, restart_identity: true } = change else {
        panic!("{change:?}")
    };
    assert_eq!(tables.len(), 2);
    let unknown = after_begin(ReplicaIdentity::Nothing, truncate(TableId(1)));
    assert_eq!(unknown, Err(AssembleError::UnknownTable(TableId(1))));
}

fn described(identity: ReplicaIdentity, assembler: &mut Assembler, xid: u32) -> ReplicaIdentity {
    let lsn = u64::from(xid) * 100;
    assembler.push(begin(xid, lsn), 21).unwrap();
    let old = match identity {
        ReplicaIdentity::Full => OldRow::Full(row([text("1"), text("x")])),
        _ => OldRow::Key(row([text("1"), Cell::NULL])),
    };
    assembler.push(delete(old), 30).unwrap();
    let transaction = assembler.push(commit(lsn), 26).unwrap().unwrap();
    let [ChangeEvent::Delete { table, .. }] = &transaction.changes[..] else { panic!() };
    table.identity
}

/// `at` is when the streamed transaction was told what the table looks like.
fn stream(assembler: &mut Assembler, xid: u32, identity: ReplicaIdentity, at: Moment) {
    let lsn = u64::from(xid) * 100;
    let begin = Begin { final_lsn: Lsn(lsn), committed_at_us: 7, xid };
    assembler.begin_streamed(begin).unwrap();
    let unknown = assembler.push_received(insert([text("1"), text("x")]), 30, at);
    assert_eq!(unknown, Err(AssembleError::UnknownTable(ID)), "others' tables are not its own");
    assembler.push_received(relation(identity), 50, at).unwrap();
    assembler.push_received(insert([text("1"), text("x")]), 30, at).unwrap();
    let transaction = assembler.push(commit(lsn), 26).unwrap().unwrap();
    assert_eq!(transaction.changes.len(), 1);
}

#[test]
fn what_a_streamed_transaction_was_told_counts_when_it_commits_unless_others_know_better() {
    let mut assembler = Assembler::default();
    assembler.push(relation(ReplicaIdentity::Full), 50).unwrap();
    let early = assembler.moment();
    let full = ReplicaIdentity::Full;
    assert_eq!(described(full, &mut assembler, 1), full);
    // Told after everybody else: the server won't say it again.
    stream(&mut assembler, 2, ReplicaIdentity::Index, early);
    let index = ReplicaIdentity::Index;
    assert_eq!(described(index, &mut assembler, 3), index);
    // Told before somebody else was told better.
    let before = assembler.moment();
    assembler.push(relation(ReplicaIdentity::Default), 50).unwrap();
    stream(&mut assembler, 4, index, before);
    let default = ReplicaIdentity::Default;
    assert_eq!(described(default, &mut assembler, 5), default);
}

/// The description of one table of `t`'s form.
fn relation_named(id: u32, name: &str) -> Message {
    let Message::Relation(Relation(table)) = relation(ReplicaIdentity::Default) else {
        unreachable!("it is a description")
    };
    let name = QualifiedName::new("public", name);
    Message::Relation(Relation(TableSchema { id: TableId(id), name, ..table }))
}

#[test]
fn a_name_that_stands_for_another_table_ends_the_stream() {
    let made_again = |known, found| AssembleError::MadeAgain {
        table: QualifiedName::new("public", "t"),
        known: TableId(known),
        found: TableId(found),
    };
    let mut assembler = Assembler::default();
    for message in
        [begin(1, 100), relation_named(1, "t"), relation_named(2, "u"), relation_named(1, "t")]
    {
        assert_eq!(assembler.push(message, 1), Ok(None));
    }
    // Renamed: the same rows.
    assert_eq!(assembler.push(relation_named(2, "v"), 1), Ok(None));
    assert_eq!(assembler.push(relation_named(3, "t"), 1), Err(made_again(1, 3)));

    let known = KnownTables::default();
    known.set([(QualifiedName::new("public", "t"), vec![TableId(1), TableId(3)])].into());
    let knowing = || Assembler::default().knowing(known.clone());
    let mut assembler = knowing();
    for message in
        [begin(1, 100), relation_named(1, "t"), relation_named(3, "t"), relation_named(9, "new")]
    {
        assert_eq!(assembler.push(message, 1), Ok(None));
    }
    assert_eq!(knowing().push(relation_named(4, "t"), 1), Err(made_again(3, 4)));
}

#[test]
fn a_streamed_transaction_is_held_to_the_names_of_all() {
    let mut assembler = Assembler::default();
    for message in [begin(1, 100), relation_named(1, "t"), commit(100)] {
        assembler.push(message, 1).unwrap();
    }
    let at = assembler.moment();
    assembler.begin_streamed(Begin { final_lsn: Lsn(200), committed_at_us: 7, xid: 2 }).unwrap();
    let pushed = assembler.push_received(relation_named(2, "t"), 1, at);
    assert!(matches!(pushed, Err(AssembleError::MadeAgain { .. })), "{pushed:?}");
}
