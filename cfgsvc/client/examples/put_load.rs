//! Writes from many clients at once and says how fast that was.
//!
//! `cargo run --release -p cfgsvc-client --example put_load -- ENDPOINTS CLIENTS SECONDS`, such as
//! `127.0.0.1:2379,127.0.0.1:22379 64 10`. Each client has a connection of its own and one request
//! in flight; values are 256 bytes; keys are spread over 100,000.

use std::time::{Duration, Instant};

use cfgsvc_client::{Client, Options, Put};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, clients, seconds] = arguments.as_slice() else {
        return Err("usage: put_load ENDPOINTS CLIENTS SECONDS".into());
    };
    let (clients, seconds): (usize, u64) = (clients.parse()?, seconds.parse()?);
    let endpoints: Vec<&str> = endpoints.split(',').collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = Vec::new();
    for number in 0..clients {
        // The clients spread over the members, as they would in earnest.
        let mut order = endpoints.clone();
        order.rotate_left(number % endpoints.len());
        let client = Client::new(Options::new(order))?;
        tasks.push(tokio::spawn(async move {
            let mut took = Vec::new();
            let mut key = number;
            while Instant::now() < until {
                let began = Instant::now();
                client
                    .put(Put::new(format!("load/{key:06}"), vec![b'x'; 256]))
                    .await?;
                took.push(began.elapsed());
                key = (key + 7919) % 100_000;
            }
            Ok::<_, cfgsvc_client::KvError>(took)
        }));
    }
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    took.sort_unstable();
    let at = |permille: usize| {
        took.get(took.len() * permille / 1000)
            .copied()
            .unwrap_or_default()
    };
    let rate = took.len() as f64 / seconds as f64;
    eprintln!(
        "{clients} clients, {seconds} s: {rate:.0} puts/s, p50 {:?}, p99 {:?}, slowest {:?}",
        at(500),
        at(990),
        took.last().copied().unwrap_or_default()
    );
    Ok(())
}
