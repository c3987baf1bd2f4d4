//! What the sidecar tells its watchdog: JSON, one line each.

use std::path::PathBuf;

use cutover::ports::Entry;
use cutover::switch::SwitchConfig;
use decoders::postgres::catalog::TableFilter;
use serde::{Deserialize, Serialize};

/// What the watchdog answers once it listens.
pub const READY: &str = "ready";

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line: how to reach everything.
    Hello(Box<Hello>),
    /// An entry of the journal. The act that it announces begins after this was written.
    Entry(Box<Entry>),
    /// The sidecar lives.
    Beat,
    /// The run is over; nobody has to watch any more.
    Over,
}

/// How to reach everything. Holds passwords: never printed.
#[derive(Serialize, Deserialize)]
pub struct Hello {
    /// The pipeline's name.
    pub name: String,
    /// The names of its streams, forward and back.
    pub streams: [String; 2],
    /// Tables that take part.
    pub tables: TableFilter,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Connection string of blue.
    pub blue: String,
    /// Connection string of green.
    pub green: String,
    /// Publications on blue and on green.
    pub publications: [String; 2],
    /// The routers.
    pub switch: SwitchConfig,
    /// The sidecar's process id.
    pub sidecar: i32,
}

impl Line {
    /// As it is written, with its end of line.
    ///
    /// # Errors
    /// What can't be JSON; nothing that is ours.
    pub fn write(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }

    /// What was written. A line that the sidecar's death has cut short is an error.
    ///
    /// # Errors
    /// It is no line of this version.
    pub fn read(text: &str) -> serde_json::Result<Line> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use cutover::ports::{Epoch, Record};
    use cutover::{Direction, Phase};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_short_is_not() {
        let entry = |record| Entry {
            seq: 3,
            run: "7f3a".into(),
            epoch: Epoch(2),
            at: Timestamp::UNIX_EPOCH,
            record,
        };
        let entries = [
            entry(Record::Began {
                request: json!({ "way_back": true }),
                direction: Direction::Back,
            }),
            entry(Record::Reached {
                phase: Phase::Gate,
                seen: "a\nb".into(),
                next: Some("hold_traffic".into()),
                detail: json!({ "undo": { "at": null, "version_num": 150_000 } }),
            }),
        ];
        for entry in entries {
            let text = Line::Entry(Box::new(entry.clone())).write().unwrap();
            assert_eq!(text.matches('\n').count(), 1);
            let Line::Entry(read) = Line::read(text.trim_end()).unwrap() else {
                panic!("another line")
            };
            assert_eq!(*read, entry);
            for cut in 0..text.len() - 1 {
                assert!(Line::read(&text[..cut]).is_err());
            }
        }
        for line in [Line::Beat, Line::Over] {
            Line::read(line.write().unwrap().trim_end()).unwrap();
        }
    }
}
