//! Works only while it is the only one:
//! `cargo run --example lock -- 127.0.0.1:2379 NAME [SECONDS]`.
//! Start it twice; then kill the first one, or stop its members.

use cfgsvc_client::{Client, LockOptions, Options};
use std::error::Error;
use std::io::{Write, stdout};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().unwrap_or_else(|| "127.0.0.1:2379".into());
    let name = args.next().unwrap_or_else(|| "example/lock".into());
    let seconds = args.next().map_or(Ok(10), |text| text.parse())?;
    let client = Client::new(Options::new(endpoints.split(',')))?;

    let guard = client.lock(&name, LockOptions::new()).await?;
    writeln!(stdout(), "holding `{name}` with epoch {}", guard.epoch())?;
    let lost = tokio::select! {
        // The work. Whatever it writes elsewhere carries the epoch.
        () = tokio::time::sleep(Duration::from_secs(seconds)) => None,
        lost = guard.lost() => Some(lost),
    };
    // Nothing is under way any more, be it done or lost.
    guard.release().await?;
    lost.map_or(Ok(()), |lost| Err(lost.into()))
}
