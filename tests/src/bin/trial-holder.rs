//! The program of a role in trials: as long as it runs, it says so, in a log that all holders of
//! the role share and to a resource, under the epoch that it was started with.
//!
//! Usage: trial-holder LOG RESOURCE
//!
//! A line of the log is `EPOCH HOST PID NANOS`, of the lease clock, which is one for all processes
//! of a machine. The resource (UDP) gets `ROLE EPOCH HOST NANOS`.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use cfgsvc_clock::Moment;

/// Time between two lines.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let log = arguments.next().context("the log is missing")?;
    let resource = arguments.next().context("the resource is missing")?;
    let resource = resource.to_str().context("the resource is no address")?;
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (role, host, epoch) = (
        variable("CFGSVC_ROLE")?,
        variable("CFGSVC_HOST")?,
        variable("EPOCH")?,
    );
    let mut log = OpenOptions::new().append(true).create(true).open(log)?;
    let resource: SocketAddr = resource.parse().context("the resource is no address")?;
    // In a namespace of its own the host has no other than that of its clients.
    let own = if resource.ip().is_loopback() {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let socket = UdpSocket::bind((own, 0))?;
    let process = std::process::id();
    loop {
        // One write is one line, whoever else writes.
        let now = Moment::now().nanos();
        let line = format!("{epoch} {host} {process} {now}\n");
        log.write_all(line.as_bytes())?;
        let write = format!("{role} {epoch} {host} {now}");
        socket.send_to(write.as_bytes(), resource)?;
        std::thread::park_timeout(PAUSE);
    }
}
