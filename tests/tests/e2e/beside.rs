//! Programs beside a group: they end with the test, and can be cut off from its members.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use cfgsvc_tests::harness::{Cluster, Network, binary_path, run_binary, unused_address};

/// The numbers of a program and of everybody else in its network.
pub(crate) const SELF: usize = 0;
pub(crate) const OTHERS: usize = 1;

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program; what it says goes to the file `log` of the directory.
pub(crate) fn start(name: &str, dir: &Path, log: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary_path(name)?);
    start_command(command.args(arguments), dir, log)
}

/// The same, of a command that is made elsewhere.
pub(crate) fn start_command(command: &mut Command, dir: &Path, log: &str) -> Result<Process> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join(log))?;
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(log);
    Ok(Process(command.spawn().context("start a program")?))
}

/// A network of one program, and the endpoints by which it reaches the members there.
pub(crate) fn ways(cluster: &Cluster) -> Result<(Network, String)> {
    let network = Network::new(Arc::new(|_| Some(SELF)))?;
    let mut endpoints = Vec::new();
    for member in 0..cluster.count() {
        let listen = unused_address()?;
        network.link(listen, cluster.client_address(member)?, OTHERS)?;
        endpoints.push(listen.to_string());
    }
    Ok((network, endpoints.join(",")))
}

/// Runs `cfgctl` against all members; it must succeed.
pub(crate) fn cfgctl(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let endpoints = cluster.endpoints();
    let all = [&["--endpoints", &endpoints][..], arguments].concat();
    run_binary("cfgctl", &all)?.success()
}
