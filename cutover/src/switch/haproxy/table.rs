//! HAProxy's answers, read by the names of their columns: versions differ in their order.

/// `srv_admin_state`: put to maintenance by somebody, over the socket or in the configuration
/// (`SRV_ADMF_FMAINT`).
const FORCED_MAINTENANCE: u32 = 0x01;
/// All kinds of maintenance: forced, inherited, from the configuration, by resolution of names.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x20;

/// A server of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub name: String,
    /// Of the backend and of the server, for `show stat`.
    pub ids: (u32, u32),
    /// Its checks do not say that it is down.
    pub running: bool,
    admin: u32,
    /// Now.
    pub weight: u32,
    /// As configured.
    pub configured: u32,
}

impl Server {
    /// Takes no clients because somebody said so.
    pub fn is_closed(&self) -> bool {
        self.admin & FORCED_MAINTENANCE != 0
    }

    /// Takes no clients for another reason than our own.
    pub fn is_kept_closed(&self) -> bool {
        self.admin & MAINTENANCE & !FORCED_MAINTENANCE != 0
    }
}

/// `show servers state`: a version, a line of names behind `#`, a line for each server.
pub(super) fn servers(answer: &str) -> Option<Vec<Server>> {
    let mut lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<&str> =
        lines.find_map(|line| line.strip_prefix('#'))?.split_whitespace().collect();
    let column = |name: &str| names.iter().position(|known| *known == name);
    let (be, srv, name) = (column("be_id")?, column("srv_id")?, column("srv_name")?);
    let (state, admin) = (column("srv_op_state")?, column("srv_admin_state")?);
    let (weight, configured) = (column("srv_uweight")?, column("srv_iweight")?);
    lines
        .map(|line| {
            let values: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| values.get(at)?.parse::<u32>().ok();
            Some(Server {
                name: (*values.get(name)?).to_owned(),
                ids: (number(be)?, number(srv)?),
                running: number(state)? == 2,
                admin: number(admin)?,
                weight: number(weight)?,
                configured: number(configured)?,
            })
        })
        .collect()
}

/// Sessions of the one server in `show stat`: a line of names behind `#`, one of values.
pub(super) fn sessions(answer: &str) -> Option<u64> {
    let mut lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let names = lines.next()?.trim_start_matches('#').trim_start();
    let at = names.split(',').position(|name| name == "scur")?;
    lines.next()?.split(',').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // HAProxy 2.6.12, shortened at the end of the lines.
    const STATE: &str = "1\n\
        # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status\n\
        3 shop 1 blue 127.0.0.1 2 0 1 1 5 1\n\
        3 shop 2 green 127.0.0.1 0 5 0 1 5 1\n";

    #[test]
    fn servers_are_read_by_the_names_of_the_columns() {
        let found = servers(STATE).unwrap();
        assert_eq!(found.len(), 2);
        let (blue, green) = (&found[0], &found[1]);
        assert_eq!((blue.name.as_str(), blue.ids, blue.weight), ("blue", (3, 1), 1));
        assert!(blue.running && !blue.is_closed());
        assert!(!green.running && green.is_closed() && !green.is_kept_closed());
        assert_eq!((green.weight, green.configured), (0, 1));
        assert_eq!(servers("Can't find backend."), None);
        assert_eq!(servers("1\n# be_id be_name\n3 shop"), None);
    }

    #[test]
    fn sessions_are_counted() {
        assert_eq!(sessions("# pxname,svname,qcur,qmax,scur,smax\nshop,blue,0,0,7,9\n"), Some(7));
        assert_eq!(sessions("# pxname,svname\n"), None);
    }
}
