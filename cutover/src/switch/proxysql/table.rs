//! `mysql_servers` in its three states: what is in it, what it means, and what has to be written.

use std::fmt;

use super::super::config::SwitchConfigError;
use crate::side::Side;
use crate::sql::TextRow;

/// A server as ProxySQL knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `host:port`; an address of IPv6 in brackets.
    pub fn parse(text: &str, key: &str) -> Result<Self, SwitchConfigError> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
            (!host.is_empty()).then_some(())?;
            Some(Self { host, port: port.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            SwitchConfigError(format!(
                "cutover.proxysql.{key} must be host:port, as ProxySQL has it"
            ))
        })
    }

    /// As a condition on `mysql_servers`.
    fn is(&self) -> String {
        format!("hostname={} AND port={}", quoted(&self.host), self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a server is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Online,
    /// Left alone for a moment, by itself.
    Shunned,
    OfflineSoft,
    OfflineHard,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "ONLINE" => Status::Online,
            // Also SHUNNED_REPLICATION_LAG.
            shunned if shunned.starts_with("SHUNNED") => Status::Shunned,
            "OFFLINE_SOFT" => Status::OfflineSoft,
            "OFFLINE_HARD" => Status::OfflineHard,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Status::Online => "ONLINE",
            Status::Shunned => "SHUNNED",
            Status::OfflineSoft => "OFFLINE_SOFT",
            Status::OfflineHard => "OFFLINE_HARD",
        }
    }

    /// Queries may go there, now or by itself soon.
    fn is_open(self) -> bool {
        matches!(self, Status::Online | Status::Shunned)
    }
}

/// A server in a hostgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub hostgroup: u32,
    pub address: Address,
    pub status: Status,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} ({})", self.address, self.hostgroup, self.status.name())
    }
}

/// All rows; the number of the first one that can't be read.
pub(super) fn entries(rows: &[TextRow]) -> Result<Vec<Entry>, usize> {
    let entry = |row: &TextRow| {
        Some(Entry {
            hostgroup: row.get("hostgroup_id")?.parse().ok()?,
            address: Address {
                host: row.get("hostname")?.to_ascii_lowercase(),
                port: row.get("port")?.parse().ok()?,
            },
            status: Status::parse(row.get("status")?)?,
        })
    };
    rows.iter().enumerate().map(|(at, row)| entry(row).ok_or(at)).collect()
}

/// Which hostgroups lead to which servers.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub hostgroups: Vec<u32>,
    pub blue: Address,
    pub green: Address,
}

impl Places {
    pub fn of(&self, side: Side) -> &Address {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    pub fn is_ours(&self, hostgroup: u32) -> bool {
        self.hostgroups.contains(&hostgroup)
    }

    fn side_of(&self, address: &Address) -> Option<Side> {
        Side::ALL.into_iter().find(|side| self.of(*side) == address)
    }

    /// Where clients belong, and whether they are let through; or why nobody can tell.
    pub fn leads(&self, entries: &[Entry]) -> Result<(Side, bool), String> {
        let mut found: Option<(Side, bool)> = None;
        for hostgroup in &self.hostgroups {
            let here: Vec<_> = entries
                .iter()
                .filter(|entry| entry.hostgroup == *hostgroup)
                .filter(|entry| entry.status != Status::OfflineHard)
                .collect();
            let [entry] = here[..] else {
                let names: Vec<_> = here.iter().map(|entry| entry.address.to_string()).collect();
                return Err(match names.is_empty() {
                    true => format!("hostgroup {hostgroup} has no server"),
                    false => format!("hostgroup {hostgroup} has several: {}", names.join(", ")),
                });
            };
            let Some(side) = self.side_of(&entry.address) else {
                return Err(format!(
                    "hostgroup {hostgroup} has {}, which is neither blue's {} nor green's {}",
                    entry.address, self.blue, self.green
                ));
            };
            let open = entry.status.is_open();
            found = match found {
                Some((other, _)) if other != side => {
                    return Err(format!(
                        "hostgroup {hostgroup} leads to {side}, another to {other}"
                    ));
                }
                Some((_, other)) => Some((side, open || other)),
                None => Some((side, open)),
            };
        }
        found.ok_or_else(|| "no hostgroup is named".to_owned())
    }

    /// Whether no server of ours, whichever it is, takes queries.
    pub fn is_closed(&self, entries: &[Entry]) -> bool {
        !entries.iter().any(|entry| self.is_ours(entry.hostgroup) && entry.status.is_open())
    }

    /// What makes `draft` lead to `side`, with this status. What else the server's row says (weight,
    /// connections, TLS) is kept.
    pub fn statements(&self, draft: &[Entry], side: Side, status: Status) -> Vec<String> {
        let mut statements = Vec::new();
        for hostgroup in &self.hostgroups {
            let has = |side: Side| {
                draft
                    .iter()
                    .any(|entry| entry.hostgroup == *hostgroup && entry.address == *self.of(side))
            };
            let other = side.other();
            if has(other) && has(side) {
                let is = self.of(other).is();
                statements.push(format!(
                    "DELETE FROM mysql_servers WHERE hostgroup_id={hostgroup} AND {is}"
                ));
            }
            statements.push(match (has(side), has(other)) {
                (true, _) => self.set(*hostgroup, side, status),
                (false, true) => self.exchange(*hostgroup, side, status),
                (false, false) => format!(
                    "INSERT INTO mysql_servers (hostgroup_id, hostname, port, status) VALUES \
                     ({hostgroup}, {}, {}, '{}')",
                    quoted(&self.of(side).host),
                    self.of(side).port,
                    status.name()
                ),
            });
        }
        statements
    }

    /// Gives a side's server this status.
    pub fn set(&self, hostgroup: u32, side: Side, status: Status) -> String {
        format!(
            "UPDATE mysql_servers SET status='{}' WHERE hostgroup_id={hostgroup} AND {}",
            status.name(),
            self.of(side).is()
        )
    }

    /// Makes the other side's server this one's.
    pub fn exchange(&self, hostgroup: u32, to: Side, status: Status) -> String {
        format!(
            "UPDATE mysql_servers SET hostname={}, port={}, status='{}' WHERE \
             hostgroup_id={hostgroup} AND {}",
            quoted(&self.of(to).host),
            self.of(to).port,
            status.name(),
            self.of(to.other()).is()
        )
    }
}

/// A text as SQLite writes it: a backslash is a backslash.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text, "blue").unwrap()
    }

    fn entry(hostgroup: u32, at: &str, status: Status) -> Entry {
        Entry { hostgroup, address: address(at), status }
    }

    fn places(hostgroups: &[u32]) -> Places {
        Places { hostgroups: hostgroups.into(), blue: address("b:1"), green: address("g:2") }
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(address("DB.example:3306").to_string(), "db.example:3306");
        assert_eq!(address("[::1]:3306"), Address { host: "::1".into(), port: 3306 });
        for text in ["db", ":3306", "db:", "db:66000"] {
            assert!(Address::parse(text, "blue").is_err(), "{text}");
        }
    }

    #[test]
    fn it_leads_where_its_only_server_is() {
        use Status::{OfflineHard, OfflineSoft, Online, Shunned};
        let ours = places(&[1, 2]);
        let leads = |first: &[Entry]| ours.leads(first);
        let rows = [entry(1, "b:1", Online), entry(2, "b:1", OfflineSoft), entry(3, "x:9", Online)];
        assert_eq!(leads(&rows), Ok((Side::Blue, true)));
        let rows = [entry(1, "g:2", OfflineSoft), entry(2, "g:2", OfflineSoft)];
        assert_eq!(leads(&rows), Ok((Side::Green, false)));
        let rows = [entry(1, "g:2", Shunned), entry(2, "g:2", OfflineSoft)];
        assert_eq!(leads(&rows), Ok((Side::Green, true)), "it comes back by itself");
        // What was taken out and is still in use takes no queries.
        let rows = [entry(1, "g:2", Online), entry(1, "b:1", OfflineHard), entry(2, "g:2", Online)];
        assert_eq!(leads(&rows), Ok((Side::Green, true)));
        for (rows, why) in [
            (vec![entry(1, "b:1", Online)], "hostgroup 2 has no server"),
            (vec![entry(1, "b:1", Online), entry(1, "g:2", OfflineSoft)], "has several"),
            (vec![entry(1, "x:9", Online)], "neither"),
            (vec![entry(1, "b:1", Online), entry(2, "g:2", Online)], "another to blue"),
        ] {
            let said = leads(&rows).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        // Somebody else's server lets clients through, too.
        assert!(!ours.is_closed(&[entry(1, "b:1", OfflineSoft), entry(1, "x:9", Online)]));
        assert!(ours.is_closed(&[entry(1, "b:1", OfflineSoft), entry(3, "x:9", Online)]));
    }

    #[test]
    fn whatever_the_draft_holds_it_is_made_to_lead_there() {
        use Status::{OfflineSoft, Online};
        let ours = places(&[1]);
        let to_green = |draft: &[Entry]| ours.statements(draft, Side::Green, OfflineSoft);
        let exchange = "UPDATE mysql_servers SET hostname='g', port=2, status='OFFLINE_SOFT' WHERE \
                        hostgroup_id=1 AND hostname='b' AND port=1";
        assert_eq!(to_green(&[entry(1, "b:1", Online), entry(2, "g:2", Online)]), [exchange]);
        let set = "UPDATE mysql_servers SET status='OFFLINE_SOFT' WHERE hostgroup_id=1 AND \
                   hostname='g' AND port=2";
        assert_eq!(to_green(&[entry(1, "g:2", Online)]), [set]);
        let delete = "DELETE FROM mysql_servers WHERE hostgroup_id=1 AND hostname='b' AND port=1";
        assert_eq!(to_green(&[entry(1, "g:2", Online), entry(1, "b:1", Online)]), [delete, set]);
        let insert = "INSERT INTO mysql_servers (hostgroup_id, hostname, port, status) VALUES \
                      (1, 'g', 2, 'OFFLINE_SOFT')";
        assert_eq!(to_green(&[]), [insert]);
    }
}
