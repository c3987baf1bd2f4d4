//! The end of the way back: what it would remove, and what it has removed.

use crate::api::{FinishPlan, FinishReport, FinishState};

use super::Paint;

/// What a person has to know before saying yes.
pub fn render_finish_plan(plan: &FinishPlan, paint: Paint) -> String {
    let mut text = match plan.state {
        FinishState::NotAsked => {
            format!("{}: {} serves for good\n", paint.bold("Finish"), plan.serving)
        }
        FinishState::UnderWay => {
            let begun = paint.warn("begun, and not ended yet");
            format!("{}: {begun}; {} serves for good\n", paint.bold("Finish"), plan.serving)
        }
        FinishState::Done => return format!("finished already: {} serves\n", plan.serving),
    };
    let sealed = plan.sealed.as_deref().unwrap_or("the other side");
    text.push_str(&paint.warn(&format!(
        " after  no way back: {sealed} stays sealed, and what {} writes does not go there any more\n",
        plan.serving
    )));
    let width = plan.acts.iter().map(|act| act.place.chars().count()).max().unwrap_or(0);
    for act in &plan.acts {
        text.push_str(&format!(" does   {:width$}  {}\n", act.place, act.text));
    }
    text.push_str(" keeps  the decisions of the runs (_cutover.decision)\n");
    for line in &plan.unneeded {
        text.push_str(&format!(" yours  {line}\n"));
    }
    if !plan.unneeded.is_empty() {
        text.push_str("        if only this move needed it: it is not run here\n");
    }
    text
}

/// What was removed, and what would open the sealed side again.
pub fn render_finish_report(report: &FinishReport, paint: Paint) -> String {
    let mut text = format!("{}  {} serves for good\n", paint.good("finished"), report.serving);
    for line in &report.removed {
        text.push_str(&format!(" removed  {line}\n"));
    }
    if let Some(sealed) = &report.sealed {
        text.push_str(&format!(
            " sealed   {sealed}, as of the moment when the streams ended; nobody opens it but you{}\n",
            if report.reopen.is_empty() { "" } else { ":" }
        ));
    }
    for line in &report.reopen {
        text.push_str(&format!("          {line}\n"));
    }
    for line in &report.unneeded {
        text.push_str(&format!(" yours    {line}\n"));
    }
    if !report.unneeded.is_empty() {
        text.push_str("          if only this move needed it: it was not run\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Act, SCHEMA_VERSION};

    fn plan(state: FinishState) -> FinishPlan {
        FinishPlan {
            schema_version: SCHEMA_VERSION,
            state,
            serving: "green".into(),
            sealed: Some("blue".into()),
            database: "shop".into(),
            refused: None,
            acts: vec![Act {
                step: "finish".into(),
                place: "green".into(),
                text: "drop replication slot cutover_shop_back".into(),
            }],
            reopen: Vec::new(),
            unneeded: vec!["green: ALTER TABLE public.t REPLICA IDENTITY DEFAULT".into()],
        }
    }

    #[test]
    fn what_goes_and_what_stays_is_said_before_the_question() {
        assert_eq!(
            render_finish_plan(&plan(FinishState::NotAsked), Paint::none()),
            "Finish: green serves for good\n \
             after  no way back: blue stays sealed, and what green writes does not go there any \
             more\n \
             does   green  drop replication slot cutover_shop_back\n \
             keeps  the decisions of the runs (_cutover.decision)\n \
             yours  green: ALTER TABLE public.t REPLICA IDENTITY DEFAULT\n        \
             if only this move needed it: it is not run here\n"
        );
        let done = render_finish_plan(&plan(FinishState::Done), Paint::none());
        assert_eq!(done, "finished already: green serves\n");
    }

    #[test]
    fn the_report_says_how_to_open_the_sealed_side() {
        let report = FinishReport {
            schema_version: SCHEMA_VERSION,
            serving: "green".into(),
            removed: vec!["green: replication slot cutover_shop_back".into()],
            sealed: Some("blue".into()),
            reopen: vec!["blue: ALTER DATABASE shop ALLOW_CONNECTIONS true".into()],
            unneeded: Vec::new(),
        };
        let text = render_finish_report(&report, Paint::none());
        assert!(
            text.starts_with("finished  green serves for good\n removed  green: rep"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "but you:\n          blue: ALTER DATABASE shop ALLOW_CONNECTIONS true\n"
            )
        );
    }
}
