//! Triggers and rules that fire for replicated changes: a target has them off, and notes what the flip makes of them
//! ([`crate::triggers`]). They are compared as the flip will leave them.

use std::collections::HashMap;

use cutover::Direction;
use cutover::verify::objects::Described;
use decoders::postgres::catalog::{Firing, quote_ident};
use decoders::source::Disposition;
use sinks::TargetError;
use sinks::own::keys;

use super::super::reader::{Reader, Trouble};
use crate::config::Config;
use crate::triggers::{Kind, Triggers};

/// By kind and name of the object: the property that has the state, and the state.
pub(in crate::verify) type States = HashMap<(&'static str, String), (&'static str, String)>;

/// What the stream of `config` has noted on its target.
pub(in crate::verify) async fn states(
    target: &Reader,
    config: &Config,
    direction: Direction,
) -> Result<States, Trouble> {
    let reading = async {
        keys::refuse_strangers(target.session()).await?;
        Triggers::of(config, direction).notes(target.session()).await
    };
    let notes = reading.await.map_err(|error: TargetError| Trouble {
        is_transient: error.disposition == Disposition::Retry,
        ..Trouble::new(target.side, error.message)
    })?;
    let state = |(which, state): (crate::triggers::Which, Firing)| {
        let name = format!("{}.{}", which.table, quote_ident(&which.name));
        match which.kind {
            Kind::Trigger => (("trigger", name), ("fires", format!("{state:?}"))),
            Kind::Rule => (("rule", name), ("acts", of_rule(state).to_owned())),
        }
    };
    Ok(notes.into_iter().map(state).collect())
}

/// As the comparison tells the state of a rule.
fn of_rule(state: Firing) -> &'static str {
    match state {
        Firing::Origin => "in ordinary sessions",
        Firing::Disabled => "never",
        Firing::Always => "always",
        Firing::Replica => "for replicas",
    }
}

/// Gives those of `target` that are noted and off their noted states. What somebody has enabled there is compared as it
/// is.
pub(in crate::verify) fn as_noted(target: &mut [Described], states: &States) {
    if states.is_empty() {
        return;
    }
    for kind in ["trigger", "rule"] {
        for there in target.iter_mut().filter(|there| there.kind == kind) {
            let Some((property, state)) = states.get(&(kind, there.name.clone())) else { continue };
            let is_off = |value: &str| value == "Disabled" || value == of_rule(Firing::Disabled);
            for one in there.properties.iter_mut().filter(|one| one.name == *property) {
                if is_off(&one.value) {
                    one.value.clone_from(state);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover::verify::objects::{Property, Rigor};

    use super::*;

    #[test]
    fn what_is_noted_counts_for_what_is_off_and_for_nothing_that_fires() {
        let trigger = |name: &str, fires: &str| {
            let fires = Property::new("fires", fires, Rigor::Exact);
            Described::new("trigger", format!("\"s\".\"t\".\"{name}\""), vec![fires])
        };
        let mut target =
            vec![trigger("g", "Disabled"), trigger("h", "Disabled"), trigger("i", "Replica")];
        let noted = |name: &str| {
            (("trigger", format!("\"s\".\"t\".\"{name}\"")), ("fires", "Always".into()))
        };
        let states = States::from([noted("g"), noted("i")]);
        as_noted(&mut target, &states);
        let values = target.iter().map(|one| one.properties[0].value.as_str());
        assert_eq!(values.collect::<Vec<_>>(), ["Always", "Disabled", "Replica"]);
    }
}
