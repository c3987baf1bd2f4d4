//! Family: sequences, which are synchronized at the cutover.

use std::collections::{BTreeSet, HashMap};

use decoders::postgres::catalog::{SequenceInfo, quote_ident};

use super::finding::{Finding, Fix, Side, count};

pub(super) fn evaluate_blue(sequences: &[SequenceInfo], role: &str) -> Vec<Finding> {
    let identity = sequences.iter().filter(|sequence| sequence.identity).count();
    let owned = sequences.iter().filter(|s| s.owned_by.is_some() && !s.identity).count();
    let mut findings = vec![
        Finding::ok(
            "sequences",
            Side::Blue,
            "sequences are in no change stream; their values are carried over at the cutover",
        )
        .evidence(format!(
            "{}: {identity} of identity columns, {owned} of serial columns, {} alone",
            count(sequences.len(), "sequence"),
            sequences.len() - identity - owned
        )),
    ];
    let closed: Vec<&SequenceInfo> = sequences.iter().filter(|s| !s.readable).collect();
    if !closed.is_empty() {
        findings.push(denied("sequence-select", Side::Blue, &closed, role, "SELECT"));
    }
    findings
}

/// Green's sequences, where the schema is there already.
pub(super) fn evaluate_green(
    blue: &[SequenceInfo],
    green: &[SequenceInfo],
    role: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let [on_blue, on_green] =
        [blue, green].map(|all| all.iter().map(|one| (&one.name, one)).collect::<HashMap<_, _>>());
    let missing: Vec<&SequenceInfo> =
        blue.iter().filter(|b| !on_green.contains_key(&b.name)).collect();
    if !missing.is_empty() {
        let (columns, alone): (Vec<&SequenceInfo>, Vec<&SequenceInfo>) =
            missing.iter().partition(|sequence| sequence.identity);
        let statements: Vec<String> = alone.iter().map(|sequence| create(sequence)).collect();
        let finding = Finding::blocker(
            "sequences-missing",
            Side::Green,
            "sequences of blue are missing on green: new rows would have nowhere to count from",
        )
        .evidence(count(missing.len(), "sequence"))
        .objects(missing.iter().map(|sequence| sequence.name.to_string()).collect());
        findings.push(if columns.is_empty() {
            finding.fix(Fix::sql(Side::Green, statements))
        } else {
            finding.fix(Fix::advice(
                "make the identity columns of green identity columns with sequences of the same names",
            ))
        });
    }
    let closed: Vec<&SequenceInfo> =
        green.iter().filter(|g| !g.writable && on_blue.contains_key(&g.name)).collect();
    if !closed.is_empty() {
        findings.push(denied("sequence-update", Side::Green, &closed, role, "SELECT, UPDATE"));
    }
    let narrow: Vec<String> = blue
        .iter()
        .filter_map(|b| {
            let g = on_green.get(&b.name)?;
            (g.min > b.min || g.max < b.max || g.increment != b.increment).then(|| {
                format!(
                    "{}: blue {} to {} by {}, green {} to {} by {}",
                    b.name, b.min, b.max, b.increment, g.min, g.max, g.increment
                )
            })
        })
        .collect();
    if !narrow.is_empty() {
        findings.push(
            Finding::warning(
                "sequences-differ",
                Side::Green,
                "sequences count differently on green; a value of blue may not fit",
            )
            .evidence(count(narrow.len(), "sequence"))
            .objects(narrow),
        );
    }
    findings
}

fn create(sequence: &SequenceInfo) -> String {
    let cycle = if sequence.cycles { " CYCLE" } else { "" };
    format!(
        "CREATE SEQUENCE {} AS {} INCREMENT {} MINVALUE {} MAXVALUE {} START {} CACHE {}{cycle}",
        sequence.name,
        sequence.data_type,
        sequence.increment,
        sequence.min,
        sequence.max,
        sequence.start,
        sequence.cache
    )
}

fn denied(
    id: &'static str,
    side: Side,
    sequences: &[&SequenceInfo],
    role: &str,
    privileges: &str,
) -> Finding {
    let role = quote_ident(role);
    let schemas: BTreeSet<&str> = sequences.iter().map(|s| s.name.schema.as_str()).collect();
    let usage =
        schemas.iter().map(|s| format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(s)));
    let each = sequences
        .iter()
        .map(|sequence| format!("GRANT {privileges} ON SEQUENCE {} TO {role}", sequence.name));
    Finding::blocker(id, side, "the role may not carry the values of sequences over")
        .evidence(format!("{} without {privileges}", count(sequences.len(), "sequence")))
        .objects(sequences.iter().map(|sequence| sequence.name.to_string()).collect())
        .fix(Fix::sql(side, usage.chain(each).collect()))
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::super::finding::Severity;
    use super::*;

    fn sequence(name: &str) -> SequenceInfo {
        SequenceInfo {
            oid: 1,
            name: QualifiedName::new("S", name),
            owner: "o".into(),
            owned_by: None,
            identity: false,
            data_type: "bigint".into(),
            start: 1,
            increment: -2,
            min: -9,
            max: 7,
            cache: 1,
            cycles: true,
            unlogged: false,
            readable: true,
            writable: true,
        }
    }

    #[test]
    fn unreadable_sequences_block() {
        let closed = SequenceInfo { readable: false, ..sequence("s") };
        let findings = evaluate_blue(&[closed, sequence("t")], "M");
        assert_eq!(findings[0].severity, Severity::Ok);
        assert_eq!((findings[1].id, findings[1].objects.len()), ("sequence-select", 1));
    }

    #[test]
    fn missing_and_narrower_sequences_are_told_apart() {
        let findings = evaluate_green(&[sequence("s")], &[], "M");
        let create = "CREATE SEQUENCE \"S\".\"s\" AS bigint INCREMENT -2 MINVALUE -9 MAXVALUE 7 \
                      START 1 CACHE 1 CYCLE";
        assert_eq!(findings[0].fix, Some(Fix::sql(Side::Green, vec![create.to_owned()])));
        let narrow = SequenceInfo { max: 5, ..sequence("s") };
        let findings = evaluate_green(&[sequence("s")], &[narrow], "M");
        assert_eq!(findings[0].id, "sequences-differ");
        assert!(evaluate_green(&[sequence("s")], &[sequence("s")], "M").is_empty());
    }
}
