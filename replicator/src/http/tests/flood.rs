//! Clients that begin and do not end.

use super::*;

fn impatient() -> ApiConfig {
    ApiConfig {
        connections_max: 24,
        connections_per_address_max: 24,
        header_timeout_ms: 300,
        body_timeout_ms: 300,
        ..ApiConfig::default()
    }
}

/// Reads until the server closes.
async fn closed(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ended = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn half_sent_requests_are_closed_and_others_are_served_afterwards() {
    let site = Site::open(impatient()).await;
    let mut half_sent = Vec::new();
    for n in 0..300 {
        let mut stream = site.connect().await;
        let begin = ["", "GET /v1/sta", "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX: "][n % 3];
        // One that has no place is closed at once.
        let _refused = stream.write_all(begin.as_bytes()).await;
        half_sent.push(stream);
    }
    for stream in half_sent {
        assert!(!closed(stream).await.contains("reached"));
    }
    let (status, _) = site.ask(&Method::GET, "/v1/status", &bearer(Role::Read)).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let site = Site::open(impatient()).await;
    let mut stream = site.connect().await;
    let flip = bearer(Role::Flip);
    let begin = format!(
        "POST /v1/cutover HTTP/1.1\r\nHost: localhost\r\n{JSON}{flip}Content-Length: 100\r\n\r\n{{"
    );
    stream.write_all(begin.as_bytes()).await.unwrap();
    let text = closed(stream).await;
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("in time"), "{text}");
    assert_eq!(site.log("request").await.len(), 0);
}

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let site = Site::open(impatient()).await;
    let flip = bearer(Role::Flip);
    for head in ["Content-Length: 70000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n11170\r\n"] {
        let mut stream = site.connect().await;
        let begin = format!("POST /v1/cutover HTTP/1.1\r\nHost: localhost\r\n{JSON}{flip}{head}");
        stream.write_all(begin.as_bytes()).await.unwrap();
        // The server may close before it has read everything.
        let _cut = stream.write_all(&vec![b' '; 70_000]).await;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 400", "{head}");
    }
}

#[tokio::test]
async fn the_socket_has_places_of_its_own() {
    let site = Site::open(ApiConfig { header_timeout_ms: 60_000, ..impatient() }).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(site.connect().await);
    }
    // All places are taken: the next is closed.
    assert_eq!(closed(site.connect().await).await, "");
    let stream = UnixStream::connect(site.directory.path().join("api.sock")).await.unwrap();
    let (status, _) = ask(stream, &Method::GET, "/v1/status", "Host: localhost\r\n").await;
    assert_eq!(status, 200);
}
