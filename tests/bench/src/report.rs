//! The figures of one run: as JSON, and as a line of a table.

use serde::{Deserialize, Serialize};

use crate::tally::Latencies;

/// The figures of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub load: String,
    pub endpoints: Vec<String>,
    pub clients: u32,
    pub connections: u32,
    pub value_bytes: usize,
    /// Requests a second that were due in an open loop; none in a closed one.
    pub rate: Option<f64>,
    /// Seconds from the first request that counts to the end of the last.
    pub seconds: f64,
    /// Requests answered, or events received by watchers.
    pub requests: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Requests that were due and that no client was free to send before the run was given up;
    /// they are in the latencies with the time they had waited.
    pub never_started: u64,
    /// Of a watch: puts that were answered.
    pub puts: Option<u64>,
    /// Of a watch: events of answered puts that did not arrive.
    pub lost_events: Option<u64>,
    pub per_second: f64,
    pub latency_ms: Latencies,
    pub servers: Vec<Server>,
    /// CPU seconds of all servers in the measured time.
    pub server_cpu_seconds: f64,
    pub server_cpu_us_per_request: f64,
    /// CPU seconds of this program in the measured time.
    pub own_cpu_seconds: f64,
    /// CPU seconds of everything else on the machine in the measured time.
    pub other_cpu_seconds: f64,
}

/// What one server used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    pub pid: u32,
    /// In the measured time.
    pub cpu_seconds: f64,
    /// At its end.
    pub rss_mib: f64,
}

impl Report {
    /// Memory of all servers, MiB; zero, not the minus zero of an empty sum, when none is named.
    pub(crate) fn rss_mib(&self) -> f64 {
        self.servers
            .iter()
            .fold(0.0, |sum, server| sum + server.rss_mib)
    }
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<22}{:>9}{:>7}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>8}{:>7}{:>7}  {}",
        "load",
        "requests",
        "errors",
        "per s",
        "p50 ms",
        "p90",
        "p99",
        "p99.9",
        "max",
        "srv cpu s",
        "us/req",
        "own s",
        "other",
        "rss MiB"
    )
}

/// One line of the table, under `name`.
pub(crate) fn line(name: &str, report: &Report) -> String {
    let latency = &report.latency_ms;
    let rss: Vec<_> = report
        .servers
        .iter()
        .map(|server| format!("{:.0}", server.rss_mib))
        .collect();
    let line = format!(
        "{:<22}{:>9}{:>7}{:>10.0}{:>9.2}{:>9.2}{:>9.2}{:>9.2}{:>9.2}\
         {:>11.2}{:>8.0}{:>7.2}{:>7.2}  {}",
        name,
        report.requests,
        report.errors,
        report.per_second,
        latency.p50,
        latency.p90,
        latency.p99,
        latency.p99_9,
        latency.max,
        report.server_cpu_seconds,
        report.server_cpu_us_per_request,
        report.own_cpu_seconds,
        report.other_cpu_seconds,
        rss.join(" ")
    );
    line.trim_end().to_owned()
}

/// What the line cannot tell: errors, requests never sent, events that did not come.
pub(crate) fn remarks(report: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(error) = &report.first_error {
        remarks.push(format!("{} errors, the first: {error}", report.errors));
    }
    if report.never_started > 0 {
        remarks.push(format!(
            "{} requests were due and never sent: all {} clients were busy",
            report.never_started, report.clients
        ));
    }
    if let Some(lost) = report.lost_events.filter(|lost| *lost > 0) {
        remarks.push(format!("{lost} events did not arrive"));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn report() -> Report {
        Report {
            load: "put".to_owned(),
            clients: 64,
            requests: 51_234,
            errors: 2,
            first_error: Some("Unavailable: no leader".to_owned()),
            never_started: 3,
            lost_events: Some(0),
            per_second: 5_123.4,
            latency_ms: Latencies {
                p50: 11.5,
                p90: 19.9,
                p99: 30.9,
                p99_9: 39.9,
                max: 120.0,
            },
            servers: [71.2, 64.0, 63.6]
                .map(|rss_mib| Server {
                    pid: 1,
                    cpu_seconds: 5.0,
                    rss_mib,
                })
                .into(),
            server_cpu_seconds: 15.0,
            server_cpu_us_per_request: 293.0,
            own_cpu_seconds: 2.25,
            other_cpu_seconds: 0.5,
            ..Report::default()
        }
    }

    #[test]
    fn a_line_stands_under_its_head() {
        expect![[r#"
            load                   requests errors     per s   p50 ms      p90      p99    p99.9      max  srv cpu s  us/req  own s  other  rss MiB
            put-64                    51234      2      5123    11.50    19.90    30.90    39.90   120.00      15.00     293   2.25   0.50  71 64 64
            2 errors, the first: Unavailable: no leader
            3 requests were due and never sent: all 64 clients were busy
        "#]]
        .assert_eq(&format!(
            "{}\n{}\n{}\n",
            head(),
            line("put-64", &report()),
            remarks(&report()).join("\n")
        ));
    }

    #[test]
    fn json_is_read_back_as_it_was() {
        let text = serde_json::to_string(&report()).expect("plain data");
        assert!(text.contains("\"p99.9\":39.9"), "{text}");
        let back: Report = serde_json::from_str(&text).expect("it was written so");
        assert_eq!(back, report());
    }
}
