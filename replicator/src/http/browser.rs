//! Requests that a browser sends because a page of another site told it to. Pure.
//!
//! A page can make a browser send requests to loopback (CSRF), and with a name of its own that leads
//! there (DNS rebinding) it can read the answers. The first names a foreign `Origin`, or says
//! `Sec-Fetch-Site`; the second names a foreign `Host`. Nothing of ours is a page, so no request with
//! either has a good reason.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

use super::caller::Caller;

/// The hosts that requests may be for.
#[derive(Debug, Clone)]
pub struct Hosts {
    listen: IpAddr,
    names: BTreeSet<String>,
}

impl Hosts {
    /// The address that is listened on, and `names`.
    pub fn new(listen: SocketAddr, names: &BTreeSet<String>) -> Self {
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { listen: listen.ip(), names }
    }

    /// Why a request may not be answered, a sentence.
    pub fn refusal(&self, caller: &Caller, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        // Over the socket there is no browser and no name that leads to it.
        let local = caller.local?;
        let host = match host(headers) {
            Ok(host) => host,
            Err(why) => return Some(why.into()),
        };
        for asked in [Some(&host), uri.authority()].into_iter().flatten() {
            if !self.is_ours(asked.host(), local.ip()) {
                return Some(format!(
                    "the request is for the host {:?}, which this is not; if it is, add it to api.hosts",
                    shortened(asked.host())
                ));
            }
        }
        let scheme = if caller.is_tls { "https" } else { "http" };
        let same = format!("{scheme}://{host}");
        if headers
            .get_all(ORIGIN)
            .iter()
            .any(|origin| !origin.as_bytes().eq_ignore_ascii_case(same.as_bytes()))
        {
            return Some("a page of another site has sent this request (Origin)".into());
        }
        let fetched = headers.get_all("sec-fetch-site").iter();
        let is_foreign = |site: &[u8]| !matches!(site, b"same-origin" | b"none");
        if fetched.into_iter().any(|site| is_foreign(site.as_bytes())) {
            return Some("a page of another site has sent this request (Sec-Fetch-Site)".into());
        }
        None
    }

    fn is_ours(&self, host: &str, local: IpAddr) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // An address can't be made to lead elsewhere, so that of the connection itself is right.
        match bare.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address == local.to_canonical() || address == self.listen
            }
            Err(_) => {
                let name = bare.trim_end_matches('.').to_ascii_lowercase();
                name == "localhost" || self.names.contains(&name)
            }
        }
    }
}

fn host(headers: &HeaderMap) -> Result<Authority, &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("a request names its host once");
    };
    Authority::try_from(host.as_bytes()).map_err(|_| "the request's host can't be read")
}

fn shortened(host: &str) -> String {
    host.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::super::caller::Peer;
    use super::*;

    fn refusal(listen: &str, local: &str, headers: &[(&str, &str)]) -> Option<String> {
        let hosts =
            Hosts::new(listen.parse().unwrap(), &["cutover.shop.example".to_owned()].into());
        let local: SocketAddr = local.parse().unwrap();
        let caller = Caller {
            peer: Peer::Address(local),
            local: Some(local),
            is_tls: false,
            certificate: None,
        };
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        });
        hosts.refusal(&caller, &Uri::from_static("/v1/status"), &headers.collect())
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_refused() {
        let asked = |host| refusal("127.0.0.1:7654", "127.0.0.1:7654", &[("host", host)]);
        for ours in [
            "127.0.0.1:7654",
            "127.0.0.1:9999",
            "localhost",
            "LocalHost:7654",
            "[::1]:7654",
            "cutover.shop.example",
            "Cutover.Shop.Example.:443",
        ] {
            assert_eq!(asked(ours), None, "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:7654",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.1.2.3",
            "user@evil.example",
            "",
        ] {
            assert!(asked(foreign).is_some(), "{foreign}");
        }
        assert!(refusal("127.0.0.1:1", "127.0.0.1:1", &[]).is_some(), "no host at all");
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert!(refusal("127.0.0.1:1", "127.0.0.1:1", &two).is_some(), "two hosts");
    }

    #[test]
    fn the_address_that_the_client_connected_to_is_ours() {
        let asked = |host| refusal("0.0.0.0:7654", "10.1.2.3:7654", &[("host", host)]);
        assert_eq!(asked("10.1.2.3:7654"), None);
        assert!(asked("10.1.2.4:7654").is_some());
    }

    #[test]
    fn an_absolute_address_counts_as_the_host() {
        let hosts = Hosts::new("127.0.0.1:1".parse().unwrap(), &BTreeSet::new());
        let local = "127.0.0.1:1".parse().unwrap();
        let caller = Caller {
            peer: Peer::Address(local),
            local: Some(local),
            is_tls: false,
            certificate: None,
        };
        let headers = HeaderMap::from_iter([(HOST, "localhost".parse().unwrap())]);
        let foreign = Uri::from_static("http://evil.example/v1/status");
        assert!(hosts.refusal(&caller, &foreign, &headers).is_some());
    }

    #[test]
    fn other_sites_pages_are_refused_whatever_they_ask() {
        let host = ("host", "localhost:7654");
        let asked = |more| refusal("127.0.0.1:7654", "127.0.0.1:7654", &[host, more]);
        for foreign in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:3000"),
            ("origin", "https://localhost:7654"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(asked(foreign).is_some(), "{foreign:?}");
        }
        for fine in [
            ("origin", "http://localhost:7654"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "same-origin"),
        ] {
            assert_eq!(asked(fine), None, "{fine:?}");
        }
    }
}
