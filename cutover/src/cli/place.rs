//! Where the sidecar is, and the token that it wants.
//!
//! Without `--api` it is asked over the socket in its state directory, if that is there and this user
//! may use it, and at its address otherwise. The state directory is that of `--state-dir`, of the
//! configuration file, or the default one. A token that is found there goes to loopback only.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::Deserialize;
use ureq::http::Uri;

use super::args::CommonArgs;
use super::failure::Failure;
use crate::api::{SOCKET, TOKEN_FILE};

/// The environment variable with the bearer token.
const TOKEN_VARIABLE: &str = "CUTOVER_API_TOKEN";
/// As the sidecar's configuration has it.
const STATE_DIR: &str = "/var/lib/cutover";
const LISTEN: &str = "127.0.0.1:7654";
/// Before the path of a socket.
const SOCKET_SCHEME: &str = "unix:";

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At an address.
    Url(String),
    /// Over the socket.
    Socket(PathBuf),
}

/// Where to ask, and what to show.
#[derive(Clone)]
pub struct Sidecar {
    /// The address or socket that requests go to.
    pub place: Place,
    /// The bearer token. Never shown.
    pub token: Option<String>,
    /// Where a token was looked for, if none was found.
    pub looked: Option<String>,
}

/// What the sidecar's configuration file says about the API.
#[derive(Debug, Default, Deserialize)]
struct SidecarConfig {
    state_dir: Option<PathBuf>,
    #[serde(default)]
    api: SidecarApi,
}

#[derive(Debug, Default, Deserialize)]
struct SidecarApi {
    listen: Option<SocketAddr>,
    token_file: Option<PathBuf>,
    tls: Option<toml::Value>,
}

impl Sidecar {
    /// As the command line, the environment and the configuration file say.
    pub fn find(common: &CommonArgs) -> Result<Self, Failure> {
        let given = given_token(common)?;
        // Who names address and token needs nothing of this host.
        let (state_dir, config) = match (&common.api, &given) {
            (Some(_), Some(_)) => (PathBuf::new(), SidecarApi::default()),
            _ => directory_and_config(common)?,
        };
        let place = match &common.api {
            Some(text) => match text.trim().strip_prefix(SOCKET_SCHEME) {
                Some(path) => Place::Socket(path.into()),
                None => Place::Url(base_url(text)?),
            },
            None => {
                let socket = state_dir.join(SOCKET);
                // Whoever names a token wants to be known by it.
                if given.is_none() && is_ours(&socket) {
                    Place::Socket(socket)
                } else {
                    Place::Url(default_url(&config))
                }
            }
        };
        let mut this = Self { place, token: given, looked: None };
        if this.token.is_none()
            && let Place::Url(url) = &this.place
        {
            let files = config.token_file.into_iter().chain([state_dir.join(TOKEN_FILE)]);
            match found_token(url, files) {
                Ok(token) => this.token = Some(token),
                Err(looked) => this.looked = Some(looked),
            }
        }
        Ok(this)
    }
}

/// The sidecar's state directory, as far as is known here.
pub fn state_dir(common: &CommonArgs) -> Result<PathBuf, Failure> {
    Ok(directory_and_config(common)?.0)
}

fn directory_and_config(common: &CommonArgs) -> Result<(PathBuf, SidecarApi), Failure> {
    let config = common.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let directory = common.state_dir.clone().or(config.state_dir);
    Ok((directory.unwrap_or_else(|| STATE_DIR.into()), config.api))
}

fn read(path: &Path) -> Result<SidecarConfig, Failure> {
    let place = path.display().to_string();
    let refuse = |what: String| {
        Failure::usage(what, &place, "check --config (or CUTOVER_CONFIG), or give --state-dir")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(format!("the configuration can't be read: {error}")))?;
    // The parser's own rendering quotes the line, and the line may hold a password.
    toml::from_str(&text)
        .map_err(|error| refuse(format!("the configuration can't be read: {}", error.message())))
}

/// Whether the socket is there, for this user.
fn is_ours(socket: &Path) -> bool {
    let user = Uid::effective();
    std::fs::metadata(socket).is_ok_and(|there| user.is_root() || there.uid() == user.as_raw())
}

fn default_url(api: &SidecarApi) -> String {
    let scheme = if api.tls.is_some() { "https" } else { "http" };
    match api.listen {
        // On every address, so on loopback, too.
        Some(listen) if listen.ip().is_unspecified() => {
            let ip = if listen.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("{scheme}://{ip}:{}", listen.port())
        }
        Some(listen) => format!("{scheme}://{listen}"),
        None => format!("{scheme}://{LISTEN}"),
    }
}

fn base_url(text: &str) -> Result<String, Failure> {
    let refuse = |what: &str| {
        Err(Failure::usage(
            what,
            "--api (or CUTOVER_API)",
            "for example --api http://127.0.0.1:7654, or --api unix:/var/lib/cutover/api.sock",
        ))
    };
    let Ok(uri) = text.trim().parse::<Uri>() else {
        return refuse("the address is not a URL");
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => {
            if authority.as_str().contains('@') {
                return refuse(
                    "the address carries credentials; put the token into CUTOVER_API_TOKEN or \
                     --token-file",
                );
            }
        }
        _ => return refuse("the address is not an http:// or https:// URL"),
    }
    if uri.query().is_some() {
        return refuse("the address has a query");
    }
    Ok(text.trim().trim_end_matches('/').to_owned())
}

/// The token that the command line or the environment names.
fn given_token(common: &CommonArgs) -> Result<Option<String>, Failure> {
    let (token, place) = match &common.token_file {
        Some(file) => {
            let place = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|error| {
                let what = format!("the token can't be read: {error}");
                Failure::usage(what, &place, "check --token-file")
            })?;
            (text, place)
        }
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(text) => (text, TOKEN_VARIABLE.to_owned()),
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                let what = "the token is not text";
                return Err(Failure::usage(what, TOKEN_VARIABLE, "check the token"));
            }
        },
    };
    let token = token.trim();
    if token.is_empty() && common.token_file.is_none() {
        return Ok(None);
    }
    if !is_token(token) {
        let what = "the token is empty or not one line of printable characters";
        return Err(Failure::usage(what, place, "check the token"));
    }
    Ok(Some(token.to_owned()))
}

/// The first token in `files` that this user may read.
///
/// # Errors
/// Where was looked, a sentence.
fn found_token(url: &str, files: impl Iterator<Item = PathBuf>) -> Result<String, String> {
    let mut looked = format!("no token: {TOKEN_VARIABLE} is not set, there is no --token-file");
    if !leads_to_loopback(url) {
        looked.push_str(", and a token of this host does not go to another one");
        return Err(looked);
    }
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) if is_token(text.trim()) => return Ok(text.trim().to_owned()),
            Ok(_) => looked.push_str(&format!(", {} holds none", file.display())),
            Err(error) => looked.push_str(&format!(", {}: {error}", file.display())),
        }
    }
    Err(looked)
}

fn leads_to_loopback(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    uri.as_ref().and_then(Uri::host).is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use clap::Parser;

    use super::*;
    use crate::cli::args::Cli;

    fn find(args: &[&str]) -> Sidecar {
        let cli = Cli::try_parse_from(["cutover"].iter().chain(args).chain(&["status"])).unwrap();
        Sidecar::find(&cli.common).map_err(|failure| failure.error).unwrap()
    }

    #[test]
    fn addresses_are_checked_and_credentials_refused_without_being_shown() {
        assert_eq!(base_url("http://127.0.0.1:7654/").unwrap(), "http://127.0.0.1:7654");
        assert_eq!(base_url("https://host/cutover/").unwrap(), "https://host/cutover");
        for bad in ["", "127.0.0.1:7654", "ftp://host", "http://", "http://h/?a=b", "not a url"] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
        let error = base_url("http://joe:hunter2@host").unwrap_err().error;
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn the_state_directory_has_the_socket_or_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().to_str().unwrap();
        let none = find(&["--state-dir", state_dir]);
        assert_eq!(none.place, Place::Url("http://127.0.0.1:7654".into()));
        assert!(none.looked.unwrap().contains(state_dir));

        std::fs::write(directory.path().join(TOKEN_FILE), "secret\n").unwrap();
        assert_eq!(find(&["--state-dir", state_dir]).token.as_deref(), Some("secret"));
        let socket = directory.path().join(SOCKET);
        let _listener = UnixListener::bind(&socket).unwrap();
        let found = find(&["--state-dir", state_dir]);
        assert_eq!((found.place, found.token), (Place::Socket(socket.clone()), None));

        // An address that is named is asked, with the token if it is on this host.
        let named = |url| find(&["--state-dir", state_dir, "--api", url]);
        for near in ["http://127.0.0.1:1", "http://localhost:1", "https://[::1]:1"] {
            let found = named(near);
            assert_eq!(
                (found.place, found.token.as_deref()),
                (Place::Url(near.into()), Some("secret"))
            );
        }
        for far in ["http://10.0.0.1:1", "https://db.example", "http://localhost.example"] {
            let found = named(far);
            assert_eq!(found.token, None, "{far}");
            assert!(found.looked.unwrap().contains("another"), "{far}");
        }
        let named = named(&format!("unix:{}", socket.display()));
        assert_eq!(named.place, Place::Socket(socket));
    }

    #[test]
    fn the_sidecars_configuration_says_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cutover.toml");
        let token = directory.path().join("token");
        std::fs::write(&token, "flip").unwrap();
        let text = format!(
            "name = 'shop'\nstate_dir = {:?}\n[blue]\nurl = 'x'\n[api]\nlisten = '0.0.0.0:99'\n\
             token_file = {token:?}\n[api.tls]\ncert_file = 'c'\nkey_file = 'k'\n",
            directory.path()
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let found = find(&["--config", file]);
        assert_eq!(found.place, Place::Url("https://127.0.0.1:99".into()));
        assert_eq!(found.token.as_deref(), Some("flip"));
        let _listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        assert!(matches!(find(&["--config", file]).place, Place::Socket(_)));
        let token = token.to_str().unwrap();
        let by_token = find(&["--config", file, "--token-file", token]);
        assert!(matches!(by_token.place, Place::Url(_)), "who names a token goes by it");
    }
}
