//! Prints the changes under a prefix: `cargo run --example watch -- 127.0.0.1:2379 PREFIX [COUNT]`.
//! Kill and restart members meanwhile: it goes on without gap.

use cfgsvc_client::{Client, Options, WatchOptions, show_key};
use std::error::Error;
use std::io::{Write, stdout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let endpoints = args.next().unwrap_or_else(|| "127.0.0.1:2379".into());
    let prefix = args.next().unwrap_or_default();
    let mut left = args
        .next()
        .map_or(Ok(u64::MAX), |count| count.parse::<u64>())?;
    let client = Client::new(Options::new(endpoints.split(',')))?;
    let mut watch = client.watch(WatchOptions::prefix(prefix)).await?;
    while left > 0 {
        match watch.next().await {
            Some(Ok(item)) => {
                for event in item.events {
                    let (kind, key) = (event.kind, show_key(&event.kv.key));
                    let value = event.kv.value.escape_ascii();
                    writeln!(stdout(), "r{} {kind:?} {key} {value}", item.revision)?;
                }
                left -= 1;
            }
            // When the history that was missed is gone: read the keys, then watch from there.
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    Ok(())
}
