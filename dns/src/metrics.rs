//! What Prometheus is told: read from the server when it is asked for, so it cannot go stale.
//!
//! Invariant: the number of time series is fixed. What a client sends never becomes a label.

use std::fmt;

use cfgdns_net::Totals;
use cfgsvc_client::{Freshness, Moment};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::signatures;
use crate::status::Known;

/// What is known at one moment.
#[derive(Debug)]
struct Present {
    fresh_for_s: Option<f64>,
    revision: i64,
    zones: u64,
    closed: u64,
    keys_missing: u64,
    /// When the first signatures end, s since 1970.
    signatures_until: Option<u64>,
    names: u64,
    tree_octets: u64,
    totals: Totals,
}

/// All metrics as text.
pub(crate) fn text(known: &Known) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Present::of(known)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Present {
    fn of(known: &Known) -> Self {
        let (freshness, _) = known.freshness();
        let (revision, until) = match freshness {
            Freshness::Never => (0, None),
            Freshness::Stale { revision, .. } => (revision, None),
            Freshness::Fresh { revision, until } => (revision, Some(until)),
        };
        let state = known.publisher.shared().load();
        let mut present = Self {
            fresh_for_s: until.map(|until| Moment::now().until(until).as_secs_f64()),
            revision,
            zones: 0,
            closed: 0,
            keys_missing: 0,
            signatures_until: signatures::first_end(&state.zones, cfgdns_net::now().unix_seconds),
            names: 0,
            tree_octets: 0,
            totals: known.totals(),
        };
        for tree in state.zones.trees() {
            present.zones += 1;
            present.closed += u64::from(tree.is_closed());
            present.keys_missing += u64::from(tree.lacks_keys());
            present.names += tree.name_count() as u64;
            present.tree_octets += tree.octets() as u64;
        }
        present
    }
}

impl Collector for Present {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let fresh = u64::from(self.fresh_for_s.is_some());
        gauge(to, "fresh", "1 while zones are answered", fresh)?;
        let left = ConstGauge::new(self.fresh_for_s.unwrap_or(0.0));
        let help = "For how long the group's confirmation holds without another";
        metric(to, "fresh_seconds", help, &left)?;
        let revision = self.revision.unsigned_abs();
        gauge(
            to,
            "revision",
            "Revision up to which the copy is complete",
            revision,
        )?;
        gauge(to, "zones", "Zones", self.zones)?;
        let help = "Zones with a key that cannot be read: SERVFAIL";
        gauge(to, "zones_closed", help, self.closed)?;
        let help = "Signed zones whose private keys are not here: SERVFAIL to who wants signatures";
        gauge(to, "zones_without_keys", help, self.keys_missing)?;
        if let Some(until) = self.signatures_until {
            let help = "When the first signatures end, in seconds since 1970";
            gauge(to, "signatures_end_timestamp_seconds", help, until)?;
        }
        gauge(to, "names", "Names of all zones", self.names)?;
        gauge(to, "zone_bytes", "Memory of packed zones", self.tree_octets)?;
        traffic(to, &self.totals)
    }
}

fn traffic(to: &mut DescriptorEncoder<'_>, totals: &Totals) -> fmt::Result {
    let by = |name: &'static str, value: &'static str| [(name, value)];
    let help = "Requests that were read";
    let requests = [
        (by("transport", "udp"), totals.udp_requests),
        (by("transport", "tcp"), totals.tcp_requests),
        (by("transport", "tls"), totals.tls_requests),
        (by("transport", "quic"), totals.quic_requests),
    ];
    family(to, "requests", help, &requests)?;
    let names = [
        (by("rcode", "NOERROR"), 0_usize),
        (by("rcode", "FORMERR"), 1),
        (by("rcode", "SERVFAIL"), 2),
        (by("rcode", "NXDOMAIN"), 3),
        (by("rcode", "NOTIMP"), 4),
        (by("rcode", "REFUSED"), 5),
        (by("rcode", "YXDOMAIN"), 6),
        (by("rcode", "NOTAUTH"), 9),
        (by("rcode", "BADVERS"), 16),
        (by("rcode", "BADCOOKIE"), 23),
    ];
    let replies = names.map(|(label, code)| (label, totals.replies[code]));
    family(to, "replies", "Replies by how it went", &replies)?;
    let counters = counters(totals);
    for (name, help, value) in counters {
        metric(to, name, help, &ConstCounter::new(value))?;
    }
    gauge(to, "tcp_open", "Connections that are open", totals.tcp_open)?;
    let help = "Those of them that are over TLS, or to be";
    gauge(to, "tls_open", help, totals.tls_open)
}

fn counters(totals: &Totals) -> [(&'static str, &'static str, u64); 19] {
    [
        ("ignored", "Messages that were no requests", totals.ignored),
        (
            "limited",
            "Requests that the rate limit held back",
            totals.limited,
        ),
        (
            "truncated",
            "Replies that say to come over TCP",
            totals.truncated,
        ),
        (
            "udp_unsent",
            "Replies that the kernel did not take",
            totals.udp_unsent,
        ),
        (
            "udp_receive_errors",
            "Errors instead of datagrams",
            totals.udp_receive_errors,
        ),
        (
            "tcp_accepted",
            "Connections that were accepted",
            totals.tcp_accepted,
        ),
        (
            "tcp_refused",
            "Connections closed at once: too many",
            totals.tcp_refused,
        ),
        (
            "tcp_evicted",
            "Idle connections that made room for others",
            totals.tcp_evicted,
        ),
        (
            "tcp_idle",
            "Connections that were idle for too long",
            totals.tcp_idle,
        ),
        (
            "tcp_slow",
            "Connections that did not take their replies",
            totals.tcp_slow,
        ),
        ("tcp_failed", "Connections that failed", totals.tcp_failed),
        (
            "tcp_accept_errors",
            "Connections not accepted: descriptors or memory are short",
            totals.tcp_accept_errors,
        ),
        (
            "tls_handshakes",
            "Connections whose TLS handshake was done",
            totals.tls_handshakes,
        ),
        (
            "tls_failed",
            "Connections whose TLS handshake failed",
            totals.tls_failed,
        ),
        (
            "quic_refused",
            "Requests over QUIC without a reply: too many were under way",
            totals.quic_refused,
        ),
        (
            "quic_slow",
            "Replies over QUIC that the client did not take",
            totals.quic_slow,
        ),
        (
            "quic_failed",
            "Replies over QUIC that could not be sent",
            totals.quic_failed,
        ),
        (
            "transfers",
            "Zone transfers that were begun",
            totals.transfers,
        ),
        (
            "transfers_cut",
            "Zone transfers that the server did not finish",
            totals.transfers_cut,
        ),
    ]
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    // Numbers of things that are in memory, and revisions.
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    metric(to, name, help, &ConstGauge::new(value))
}

fn metric(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let name = format!("cfgdns_{name}");
    let encoder = to.encode_descriptor(&name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

/// Counters of one name that a label tells apart.
fn family(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    members: &[([(&'static str, &'static str); 1], u64)],
) -> fmt::Result {
    let name = format!("cfgdns_{name}");
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut encoder = to.encode_descriptor(&name, help, None, kind)?;
    for (labels, value) in members {
        labels_of(&mut encoder, labels, *value)?;
    }
    Ok(())
}

fn labels_of(
    encoder: &mut prometheus_client::encoding::MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: u64,
) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_family(labels)?)
}
