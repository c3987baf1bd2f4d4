//! Who reaches the API that flips, and how the operator's command does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tests::process::{Finished, Launch};
use tests::stage::Stage;
use tests::wait;

use super::{Move, SOON};

/// The command with nothing but these arguments.
fn cutover(arguments: &[&str]) -> Result<Finished> {
    Launch::ours("cutover")?.args(arguments).run(SOON)
}

/// The audit log's lines about refused and answered requests.
fn logged(stage: &Stage, kind: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(stage.state_dir().join("audit.jsonl"))?;
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    Ok(lines?.into_iter().filter(|line| line["kind"] == kind).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reaches_nothing_and_the_operator_needs_no_token() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let (stage, api) = (&this.stage, this.stage.api());
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = |path: &str| format!("{}{path}", api.base_url());
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/v1/status", 401), ("/metrics", 401)]
    {
        assert_eq!(agent.get(url(path)).call()?.status(), status, "{path}");
    }
    let go = r#"{"when_lag":"<1s","confirmation":"--yes"}"#;
    let post = || agent.post(url("/v1/cutover")).header("Content-Type", "application/json");
    assert_eq!(post().send(go)?.status(), 401);
    let token = api.authorization().context("the sidecar has made no token")?;
    let with_token = || post().header("Authorization", &token);
    let foreign = with_token().header("Origin", "https://evil.example");
    assert_eq!(foreign.send(go)?.status(), 403);
    ensure!(api.status()?["cutover"].is_null(), "a run was begun");
    for name in ["api.token", "api.sock", "audit.key", "audit.jsonl"] {
        let mode =
            std::fs::metadata(stage.state_dir().join(name)).context(name)?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // Without an address the command finds the socket, and is known by its user.
    let state_dir = stage.state_dir().display().to_string();
    let config = stage.config_file().display().to_string();
    for known in [["--state-dir", &state_dir], ["--config", &config]] {
        let seen = cutover(&[known[0], known[1], "wait", "--for-state", "streaming"])?;
        ensure!(seen.code() == 0, "{}", seen.stderr);
    }
    let stopped = cutover(&["--state-dir", &state_dir, "--actor", "ann", "abort"])?;
    ensure!(stopped.code() == 1 && stopped.stderr.contains("no run"), "{}", stopped.stderr);
    let asked = wait::until("the request in the log", SOON, || {
        let found = logged(stage, "request").map(|lines| lines.into_iter().next());
        async { found }
    })
    .await?;
    assert_eq!(
        (&asked["said_by"], &asked["what"]),
        (&"ann".into(), &"POST /v1/cutover/current/abort".into())
    );
    ensure!(asked["actor"].as_str().is_some_and(|name| name.starts_with("user:")), "{asked}");
    ensure!(asked["peer"].as_str().is_some_and(|peer| peer.starts_with("unix uid")), "{asked}");
    // Who can't find a token is told where it was looked for.
    let lost = cutover(&["--api", api.base_url(), "--state-dir", "/nowhere", "status"])?;
    ensure!(lost.code() == 2, "{}: {}", lost.code(), lost.stderr);
    for part in ["token is missing", "CUTOVER_API_TOKEN", "/nowhere/api.token", "--state-dir DIR"] {
        ensure!(lost.stderr.contains(part), "{part}: {}", lost.stderr);
    }
    ensure!(logged(stage, "refused")?.len() >= 5, "{:?}", logged(stage, "refused")?);

    // Somebody changes the log while the sidecar runs.
    let broken = |api: &tests::api::Api| api.metric("cutover_audit_broken{pipeline=\"shop\"}");
    assert_eq!(broken(&api)?, Some(0.0));
    let file = stage.state_dir().join("audit.jsonl");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replacen("\"said_by\":\"ann\"", "\"said_by\":\"bob\"", 1))?;
    let told = cutover(&["--state-dir", &state_dir, "audit", "--verify"])?;
    ensure!(told.code() == 9 && told.stderr.contains("it was changed"), "{}", told.stderr);
    assert_eq!(broken(&api)?, Some(1.0));
    ensure!(api.status()?["audit_broken"].is_string());
    let shown = cutover(&["--state-dir", &state_dir, "status"])?;
    ensure!(shown.stdout.contains("THE LOG WAS CHANGED"), "{}", shown.stdout);
    this.sidecar.kill9()?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    assert_eq!(broken(&api)?, Some(1.0), "the next life sees it, too");
    this.more(20).await
}

/// Writes `NAME.pem` and `NAME.key`, signed by the authority.
fn sign(directory: &Path, authority: &CertifiedIssuer<'_, KeyPair>, name: &str) -> Result<()> {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    std::fs::write(
        directory.join(format!("{name}.pem")),
        params.signed_by(&key, authority)?.pem(),
    )?;
    let path = directory.join(format!("{name}.key"));
    std::fs::write(&path, key.serialize_pem())?;
    Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_speaks_tls_to_a_private_authority() -> Result<()> {
    let files = tempfile::tempdir()?;
    let at = |name: &str| files.path().join(name).display().to_string();
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(at("ca.pem"), authority.pem())?;
    for name in ["server", "ann"] {
        sign(files.path(), &authority, name)?;
    }
    let config = format!(
        "[api.tls]\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n\
         [[api.certificates]]\nname = 'ann'\nrole = 'read'\nsubject = 'CN=ann'\n",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let this = Move::start_with(Stage::builder(15, 17).config(&config), "SELECT").await?;
    let state_dir = this.stage.state_dir().display().to_string();
    // The command goes over the socket if it is there when it begins.
    let socket = this.stage.state_dir().join("api.sock");
    let bound = wait::until("the socket", SOON, || async { Ok(socket.exists().then_some(())) });
    bound.await.with_context(|| this.sidecar.log_tail())?;
    cutover(&["--state-dir", &state_dir, "wait", "--for-state", "streaming"])?.success()?;
    let url = this.stage.api().base_url().replace("http://", "https://");
    let (ca, cert, key) = (at("ca.pem"), at("ann.pem"), at("ann.key"));
    let secure = |more: &[&str]| {
        let known = ["--api", &url, "--api-ca", &ca, "--state-dir"];
        cutover(&[&known[..], more].concat())
    };
    let by_token = secure(&[&state_dir, "status"])?;
    ensure!(by_token.code() == 0, "{}", by_token.stderr);
    let ann = ["/nowhere", "--api-cert", &cert, "--api-key", &key];
    let looks = secure(&[&ann[..], &["status"]].concat())?;
    ensure!(looks.code() == 0, "{}", looks.stderr);
    let acts = secure(&[&ann[..], &["abort"]].concat())?;
    ensure!(acts.code() == 2 && acts.stderr.contains("certificate:ann"), "{}", acts.stderr);
    let nobody = secure(&["/nowhere", "status"])?;
    ensure!(nobody.code() == 2 && nobody.stderr.contains("token is missing"), "{}", nobody.stderr);
    // Without the authority nothing is sent, least of all a token.
    let unknown = cutover(&["--api", &url, "--state-dir", &state_dir, "status"])?;
    ensure!(unknown.code() == 10, "{}: {}", unknown.code(), unknown.stderr);
    this.more(20).await
}
