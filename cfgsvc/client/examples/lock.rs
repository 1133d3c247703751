//! Works only while it is the only one:
//! `cargo run --example lock -- 127.0.0.1:2379 NAME [SECONDS]`.
//! Start it twice; then kill the first one, or stop its members.

use cfgsvc_client::{Client, Op, Options, Put, Txn};
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

    let session = client.session(10).await?;
    let guard = client.lock(&name, &session).await?;
    writeln!(stdout(), "holding `{name}` with epoch {}", guard.epoch())?;
    tokio::select! {
        // The work. Whatever it writes outside the group should carry the epoch.
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        lost = session.lost() => return Err(lost.into()),
    }
    // What it writes in the group is checked there: a later holder makes this fail.
    let result = Txn::new()
        .when(guard.condition())
        .then(Op::Put(Put::new("example/result", "done")));
    let reply = client.in_session(&session).txn(result).await?;
    writeln!(stdout(), "result written: {}", reply.succeeded)?;
    guard.release().await?;
    session.close().await?;
    Ok(())
}
