//! The smallest HTTP client: one GET, for health and metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Status and body of what `address` answers to GET `path`; each step may take `within`.
pub fn get(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, String)> {
    let mut connection = TcpStream::connect_timeout(&address, within)
        .with_context(|| format!("connect to {address}"))?;
    connection
        .set_read_timeout(Some(within))
        .context("set a deadline")?;
    connection
        .set_write_timeout(Some(within))
        .context("set a deadline")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection
        .write_all(request.as_bytes())
        .with_context(|| format!("ask {address} for {path}"))?;
    let mut answer = Vec::new();
    connection
        .read_to_end(&mut answer)
        .with_context(|| format!("read the answer of {address} for {path}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&*answer, ""));
    let Some(status) = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
    else {
        bail!("{address} does not answer {path} with HTTP: {head:?}");
    };
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn answered_with(answer: &'static str) -> Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("accept");
            let mut asked = [0; 256];
            let bytes = connection.read(&mut asked).expect("read");
            connection.write_all(answer.as_bytes()).expect("answer");
            String::from_utf8_lossy(&asked[..bytes]).into_owned()
        });
        let got = get(address, "/readyz", SOON);
        let asked = server.join().expect("the server does not panic");
        assert!(asked.starts_with("GET /readyz HTTP/1.1\r\n"), "{asked}");
        got
    }

    #[test]
    fn status_and_body_are_told_apart() {
        let got = answered_with("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nno leader");
        assert_eq!(got.expect("an answer"), (503, "no leader".to_owned()));
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(answered_with("hello").is_err());
    }
}
