//! What a client is told at the start, and what is refused before anything is sent.

use std::time::Duration;

/// Longest author in a change's history, bytes; the group's limit.
pub const AUTHOR_BYTES_MAX: usize = 256;
/// Longest reason in a change's history, bytes; the group's limit.
pub const REASON_BYTES_MAX: usize = 1024;

/// Settings of a [`Client`](crate::Client). Every field may be changed after [`Options::new`].
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT` or `http://HOST:PORT` of members. The first one is used while it works; the
    /// order of the others is drawn by each client, so that the clients of a member that dies
    /// spread over all that are left. Give clients different first ones to spread them before.
    pub endpoints: Vec<String>,
    /// Longest wait for a connection to one endpoint. Default 1 s.
    pub connect_timeout: Duration,
    /// Longest time for one request with all its retries. Default 5 s.
    pub request_timeout: Duration,
    /// How long one member may be silent before another one is asked, of what may be asked again;
    /// what it answers later is not heard. Default: a third of the time that is left.
    pub attempt_timeout: Option<Duration>,
    /// An HTTP/2 ping is sent on a connection this often while requests are open. Default 5 s, the
    /// least that etcd's servers tolerate.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered for so long is broken. Default 3 s.
    pub keepalive_timeout: Duration,
    /// Largest message that is received, bytes. Default 256 MiB: a range may be large.
    pub receive_bytes_max: usize,
    /// Who asks for the changes; kept in the history. At most [`AUTHOR_BYTES_MAX`] bytes.
    pub author: Option<String>,
    /// Why; kept in the history. At most [`REASON_BYTES_MAX`] bytes.
    pub reason: Option<String>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The list is empty.
    #[error("no endpoints are given: name at least one HOST:PORT")]
    NoEndpoints,
    /// Not an address.
    #[error("endpoint `{endpoint}` is not HOST:PORT or http://HOST:PORT: {problem}")]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The author or the reason is too long.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// `author` or `reason`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The author or the reason holds control characters.
    #[error("{what} holds a control character, which gRPC metadata cannot carry")]
    ControlCharacter {
        /// `author` or `reason`.
        what: &'static str,
    },
    /// A time of zero.
    #[error("{what} is zero, it must be at least 1 ms")]
    ZeroTime {
        /// Name of the setting.
        what: &'static str,
    },
}

impl Options {
    /// Settings for a group that is reached at `endpoints`, the rest as documented.
    ///
    /// ```
    /// let mut options = cfgsvc_client::Options::new(["10.0.0.1:2379", "10.0.0.2:2379"]);
    /// options.author = Some("deploy-bot".into());
    /// ```
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            attempt_timeout: None,
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(3),
            receive_bytes_max: 256 << 20,
            author: None,
            reason: None,
        }
    }

    /// Checks the settings and returns the endpoints as URIs.
    pub(crate) fn uris(&self) -> Result<Vec<String>, OptionsError> {
        if self.endpoints.is_empty() {
            return Err(OptionsError::NoEndpoints);
        }
        check_text("author", self.author.as_deref(), AUTHOR_BYTES_MAX)?;
        check_text("reason", self.reason.as_deref(), REASON_BYTES_MAX)?;
        for (what, time) in [
            ("connect timeout", self.connect_timeout),
            ("request timeout", self.request_timeout),
            (
                "attempt timeout",
                self.attempt_timeout.unwrap_or(self.request_timeout),
            ),
            ("keepalive interval", self.keepalive_interval),
            ("keepalive timeout", self.keepalive_timeout),
        ] {
            if time < Duration::from_millis(1) {
                return Err(OptionsError::ZeroTime { what });
            }
        }
        self.endpoints
            .iter()
            .map(|endpoint| uri(endpoint))
            .collect()
    }
}

fn check_text(what: &'static str, text: Option<&str>, limit: usize) -> Result<(), OptionsError> {
    let text = text.unwrap_or("");
    if text.len() > limit {
        let bytes = text.len();
        return Err(OptionsError::TooLong { what, bytes, limit });
    }
    if text.chars().any(char::is_control) {
        return Err(OptionsError::ControlCharacter { what });
    }
    Ok(())
}

/// Completes an endpoint to a URI and checks that it names a host and a port.
fn uri(endpoint: &str) -> Result<String, OptionsError> {
    let bad = |problem| OptionsError::BadEndpoint {
        endpoint: endpoint.to_owned(),
        problem,
    };
    let authority = match endpoint.split_once("://") {
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(bad("only http is supported")),
        None => endpoint,
    };
    let (host, port) = authority
        .rsplit_once(':')
        .ok_or_else(|| bad("the port is missing"))?;
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(bad("an IPv6 address stands in brackets, as in [::1]:2379"));
    }
    if port.parse::<u16>().is_err() || port == "0" {
        return Err(bad("the port is not a number from 1 to 65535"));
    }
    let uri = format!("http://{authority}");
    match uri.parse::<tonic::transport::Uri>() {
        Ok(_) => Ok(uri),
        Err(_) => Err(bad("the host has characters that a name cannot have")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(endpoints: &[&str], expected: Expect) {
        let text = match Options::new(endpoints.iter().copied()).uris() {
            Ok(uris) => uris.join(" "),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn endpoints_are_completed_or_refused_with_the_reason() {
        check(
            &["a:1", "http://b:2/", "[::1]:3"],
            expect!["http://a:1 http://b:2 http://[::1]:3"],
        );
        check(
            &[],
            expect!["no endpoints are given: name at least one HOST:PORT"],
        );
        check(
            &["a"],
            expect!["endpoint `a` is not HOST:PORT or http://HOST:PORT: the port is missing"],
        );
        check(
            &["::1:2379"],
            expect![
                "endpoint `::1:2379` is not HOST:PORT or http://HOST:PORT: \
                 an IPv6 address stands in brackets, as in [::1]:2379"
            ],
        );
        check(
            &["a:70000"],
            expect![
                "endpoint `a:70000` is not HOST:PORT or http://HOST:PORT: \
                 the port is not a number from 1 to 65535"
            ],
        );
        check(
            &["https://a:1"],
            expect![
                "endpoint `https://a:1` is not HOST:PORT or http://HOST:PORT: \
                 only http is supported"
            ],
        );
    }

    #[test]
    fn author_and_reason_are_bounded_and_plain() {
        let mut options = Options::new(["a:1"]);
        options.author = Some("x".repeat(257));
        let text = options.uris().expect_err("too long").to_string();
        assert_eq!(text, "author has 257 bytes, the limit is 256");
        options.author = None;
        options.reason = Some("a\nb".into());
        assert!(matches!(
            options.uris(),
            Err(OptionsError::ControlCharacter { what: "reason" })
        ));
    }
}
