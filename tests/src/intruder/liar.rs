//! Somebody answers in a server's place, and asks clients of the embedded proxy for their passwords.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Ground, SOON, Who};
use crate::ports::Port;
use crate::postgres::connect_url;
use crate::process::Launch;
use crate::scratch::write_private;
use crate::stage::DATABASE;
use crate::wait;

const SECRET: &str = "hunter2-of-the-client";
/// What a server asks with: a password in the clear, and a token (AuthenticationSASL, OAUTHBEARER).
const ASKS: [(&str, &[u8]); 2] = [
    ("a password", b"R\0\0\0\x08\0\0\0\x03"),
    ("a token", b"R\0\0\0\x15\0\0\0\x0aOAUTHBEARER\0\0"),
];
/// An SSLRequest.
const TLS: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

pub(super) async fn run(ground: &mut Ground) -> Result<()> {
    for (number, (what, asks)) in ASKS.into_iter().enumerate() {
        // Nobody checks a certificate in either.
        for mode in ["disable", "prefer"] {
            let liar = TcpListener::bind("127.0.0.1:0")?;
            // `0.0.0.0` leads here, and is no address of this host by name.
            let server =
                format!("postgres://mover@0.0.0.0:{}/{DATABASE}", liar.local_addr()?.port());
            let heard = Arc::new(Mutex::new(Vec::new()));
            listen(liar, asks, &heard);
            let told = play(ground, &format!("{server}?sslmode={mode}"), number, mode).await?;
            let heard = String::from_utf8_lossy(&heard.lock().unwrap_or_else(|e| e.into_inner()))
                .into_owned();
            let harm = match heard.contains(SECRET) {
                true => Some("it was told the client's password".to_owned()),
                false if told != "28000" => Some(format!("the client was told {told:?}")),
                false => None,
            };
            ground.summary.note(Who::Liar, format!("{what}, sslmode={mode}"), harm);
        }
    }
    Ok(())
}

/// A proxy in front of that server, and a client of it with a password: the SQLSTATE that it is told, or the
/// type of the message with which it is asked.
async fn play(ground: &Ground, server: &str, number: usize, mode: &str) -> Result<String> {
    let port = Port::reserve()?;
    let name = format!("liar-{number}-{mode}");
    let config = ground.stage.path().join(format!("{name}.toml"));
    let state = ground.stage.path().join(&name);
    let text = format!(
        "name = \"liar\"\nstate_dir = {state:?}\n\n[blue]\nurl = {server:?}\n\n[green]\nurl = {server:?}\n\n\
         [cutover.proxy]\nlisten = \"127.0.0.1:{}\"\ncontrol = {:?}\n",
        port.number(),
        ground.stage.path().join(format!("{name}.sock")),
    );
    write_private(&config, text)?;
    let launch = Launch::ours("replicator")?.args(["proxy", "--config"]).arg(&config);
    let mut proxy = launch.start(&ground.stage.path().join(&name))?;
    wait::until("the proxy to listen", SOON, || {
        let there = TcpStream::connect(("127.0.0.1", port.number())).ok();
        async { Ok(there) }
    })
    .await
    .with_context(|| proxy.log_tail())?;
    let url = format!("postgres://app:{SECRET}@127.0.0.1:{}/{DATABASE}", port.number());
    let told = match connect_url(&url).await {
        Ok(_) => "a session".to_owned(),
        Err(error) => {
            let error = error.downcast_ref::<tokio_postgres::Error>();
            let code = error.and_then(|error| error.code()).map(|code| code.code().to_owned());
            code.unwrap_or_else(|| format!("{error:?}"))
        }
    };
    proxy.terminate()?;
    proxy.wait(SOON)?;
    Ok(told)
}

/// Asks everybody, keeps what is answered, and lets nobody in.
fn listen(liar: TcpListener, asks: &'static [u8], heard: &Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        for mut stream in liar.incoming().flatten() {
            let answer = (|| {
                stream.set_read_timeout(Some(SOON.min(Duration::from_secs(10))))?;
                let mut packet = [0; 1024];
                let mut read = stream.read(&mut packet)?;
                if packet[..read] == TLS {
                    stream.write_all(b"N")?;
                    read = stream.read(&mut packet)?;
                }
                if read == 0 {
                    return Ok(Vec::new());
                }
                stream.write_all(asks)?;
                read = stream.read(&mut packet)?;
                Ok::<_, std::io::Error>(packet[..read].to_vec())
            })();
            // However a connection ends, what was heard on it is kept.
            heard.lock().unwrap_or_else(|e| e.into_inner()).extend(answer.unwrap_or_default());
        }
    });
}
