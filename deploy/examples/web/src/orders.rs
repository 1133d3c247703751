//! One write with the epoch, through the client program `mariadb`.
//!
//! The statement is that of `deploy/MARIADB.md`: a database whose epoch is another refuses it, so
//! a server that does not know yet that its colo is not active any more does no harm. The value
//! goes in as hexadecimal digits, so that nothing in it is ever read as SQL; user and password are
//! in a file, where the list of processes does not show them.

use std::fmt::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::decide::Master;

/// Longest wait for the database, which waits for its replica.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why a write is not acknowledged. It may be done nevertheless, if the connection broke in the
/// middle: who must know looks for the row.
pub(crate) type NotAcknowledged = String;

fn statement(id: &str, epoch: i64) -> String {
    let mut digits = String::new();
    for byte in id.bytes() {
        write!(digits, "{byte:02x}").expect("a String takes all");
    }
    format!(
        "INSERT INTO orders (id, epoch) \
         VALUES (CONVERT(X'{digits}' USING utf8mb4), cfgsvc.at_epoch({epoch}));\n"
    )
}

/// Ends without an error only when the database has acknowledged the row.
pub(crate) async fn write(file: &Path, master: &Master, id: &str) -> Result<(), NotAcknowledged> {
    let (host, port) = master
        .address
        .rsplit_once(':')
        .ok_or_else(|| format!("{} has no port", master.address))?;
    let mut command = Command::new("mariadb");
    // This option stands first.
    command.arg(format!("--defaults-file={}", file.display()));
    command.args(["--protocol=tcp", "--connect-timeout=2"]);
    // A write whose connection broke must not be sent again by itself.
    command.args(["--batch", "--skip-reconnect"]);
    command.args(["--host", host, "--port", port]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    let run = run(&mut command, statement(id, master.epoch));
    let output = timeout(ANSWER_MAX, run).await;
    let output = output.map_err(|_| "the database did not answer in time".to_owned())?;
    let output = output.map_err(|error| format!("run mariadb: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

async fn run(command: &mut Command, input: String) -> std::io::Result<Output> {
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_value_is_read_as_sql() {
        let expected = "INSERT INTO orders (id, epoch) \
                        VALUES (CONVERT(X'27293b20c3a9' USING utf8mb4), cfgsvc.at_epoch(17));\n";
        assert_eq!(statement("'); é", 17), expected);
    }
}
