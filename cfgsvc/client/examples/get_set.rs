//! Sets a key, exactly once, and reads it: `cargo run --example get_set -- 127.0.0.1:2379`.

use cfgsvc_client::{Client, Get, KvError, Options, Put};
use std::error::Error;
use std::io::{Write, stdout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoints = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2379".into());
    let mut options = Options::new(endpoints.split(','));
    options.author = Some("the get_set example".into());
    let client = Client::new(options)?;

    // Writes of a session carry request ids: they are repeated when an answer is lost.
    let session = client.session(10).await?;
    let written = client
        .in_session(&session)
        .put(Put::new("example/greeting", "hello"))
        .await?;
    session.close().await?;

    // Only if nobody else has changed it since.
    let change = Put::new("example/greeting", "hello again").if_revision(written.revision);
    match client.put(change).await {
        Ok(_) => {}
        Err(KvError::Conflict { found, .. }) => {
            writeln!(stdout(), "somebody was faster, at revision {found}")?;
        }
        Err(error) => return Err(error.into()),
    }
    for kv in client.get(Get::prefix("example/")).await?.kvs {
        let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
        writeln!(stdout(), "{key} = {value} (revision {})", kv.mod_revision)?;
    }
    Ok(())
}
