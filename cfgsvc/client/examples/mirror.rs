//! Follows a prefix and serves only what is confirmed:
//! `cargo run --example mirror -- 127.0.0.1:2379 PREFIX [CHANGES]`.

use cfgsvc_client::{Client, Freshness, Moment, Options};
use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().unwrap_or_else(|| "127.0.0.1:2379".into());
    let prefix = args.next().unwrap_or_default();
    let left = args
        .next()
        .map_or(Ok(u64::MAX), |count| count.parse::<u64>())?;
    let client = Client::new(Options::new(endpoints.split(',')))?;

    // What was confirmed less than 3 s ago may be served.
    let mut mirror = client.mirror(prefix, Duration::from_secs(3));
    for _ in 0..left {
        let (keys, freshness) = mirror.snapshot();
        match freshness {
            Freshness::Never => writeln!(stdout(), "nothing is known yet: serve nothing")?,
            Freshness::Fresh { revision, until } => {
                let left_ms = Moment::now().until(until).as_millis();
                let count = keys.len();
                writeln!(
                    stdout(),
                    "{count} keys at revision {revision}, good for {left_ms} ms"
                )?;
            }
            Freshness::Stale { revision, .. } => {
                writeln!(
                    stdout(),
                    "contact was lost at revision {revision}: serve nothing"
                )?;
            }
        }
        // A change, a confirmation, or the end of the last one.
        let patience = Duration::from_secs(3);
        if tokio::time::timeout(patience, mirror.changed())
            .await
            .is_err()
        {
            writeln!(
                stdout(),
                "{}",
                mirror.problem().unwrap_or_else(|| "silence".into())
            )?;
        }
    }
    Ok(())
}
