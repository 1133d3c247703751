//! What differs between the two databases.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

/// The application's password in both.
const PASSWORD: &str = "applications";

/// Makes the table, if it is not there.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (id BIGINT PRIMARY KEY, epoch \
                                BIGINT NOT NULL, port BIGINT NOT NULL);\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    MariaDb,
    Postgres,
}

impl Engine {
    /// What the tests of it need; `tests/run` installs that.
    pub(super) fn installed(self) -> Result<()> {
        let program = match self {
            Self::MariaDb => "/usr/sbin/mariadbd",
            Self::Postgres => "/usr/lib/postgresql/15/bin/postgres",
        };
        ensure!(
            Path::new(program).exists(),
            "{program} is missing: tests/run installs it"
        );
        Ok(())
    }

    /// The user that servers and agents run as.
    pub(super) fn user(self) -> &'static str {
        match self {
            Self::MariaDb => "mysql",
            Self::Postgres => "postgres",
        }
    }

    /// Its directory below `deploy`.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::Postgres => "postgres",
        }
    }

    /// How its positions are compared.
    pub(super) fn data(self) -> &'static str {
        match self {
            Self::MariaDb => "gtid",
            Self::Postgres => "lsn",
        }
    }

    /// The program of its servers.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadbd",
            Self::Postgres => "postgres",
        }
    }

    /// Settings of the hooks of one host, the `number`th.
    pub(super) fn settings(self, dir: &Path, port: u16, number: usize) -> String {
        let dir = dir.display();
        match self {
            Self::MariaDb => format!(
                "DB_DIR={dir}\nDB_IDENTITY=6f1f2a52-8a7e-4a4e-9d2b-0c1d2e3f4a5b\n\
                 DB_PAIR='a1 w1'\nDB_SERVER_ID={number}\nDB_PORT={port}\n\
                 DB_REPLICATION_USER=replica\nDB_REPLICATION_PASSWORD=secret\n\
                 DB_APPLICATION=app\nDB_APPLICATION_PASSWORD={PASSWORD}\n"
            ),
            Self::Postgres => format!(
                "DB_IDENTITY=orders\nDB_DIR={dir}\nDB_PORT={port}\nDB_LISTEN=127.0.0.1\n\
                 DB_PEERS=127.0.0.1/32\nDB_REPLICA_PASSWORD=secret\nDB_APP_NETS=127.0.0.1/32\n\
                 DB_APP_USER=app\nDB_APP_PASSWORD={PASSWORD}\nDB_APP_DATABASE=app\n\
                 DB_WAL_KEEP_MB=64\nDB_DISK_MIN_MB=32\nDB_KEEP_ASIDE=1\n"
            ),
        }
    }

    /// A client of the application that reads statements until its input ends.
    pub(super) fn client(self, port: u16) -> Command {
        let port = port.to_string();
        let mut command = match self {
            Self::MariaDb => {
                let mut command = Command::new("mariadb");
                command
                    .args([
                        "--no-defaults",
                        "-N",
                        "-B",
                        "--unbuffered",
                        "--connect-timeout=2",
                    ])
                    .args(["-h", "127.0.0.1", "-P", &port, "-u", "app", "app"])
                    .env("MYSQL_PWD", PASSWORD);
                command
            }
            Self::Postgres => {
                let mut command = Command::new("psql");
                command
                    .args([
                        "-XAtq",
                        "-v",
                        "ON_ERROR_STOP=1",
                        "-h",
                        "127.0.0.1",
                        "-p",
                        &port,
                    ])
                    .args(["-U", "app", "-d", "app"])
                    .env("PGCONNECT_TIMEOUT", "2")
                    .env("PGPASSWORD", PASSWORD);
                command
            }
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// What the owner of a server runs there to let the other one replicate from it, or no more:
    /// what is open then is ended. Not told to the other one.
    pub(super) fn replication(self, dir: &Path, port: u16, allowed: bool) -> Vec<String> {
        let dir = dir.display();
        let (program, statements) = match self {
            Self::MariaDb => (
                format!("mariadb --defaults-file={dir}/server.cnf"),
                if allowed {
                    "-e SET sql_log_bin = 0; ALTER USER replica@'%' ACCOUNT UNLOCK"
                } else {
                    "-e SET sql_log_bin = 0; ALTER USER replica@'%' ACCOUNT LOCK; KILL USER replica"
                },
            ),
            // Each a transaction: whom it ends comes again at once, and must be refused by then.
            Self::Postgres => (
                format!("psql -XAtqw -v ON_ERROR_STOP=1 -h {dir}/run -p {port} -d postgres"),
                if allowed {
                    "-c SET synchronous_commit = local|-c ALTER ROLE cfgsvc_replica LOGIN"
                } else {
                    "-c SET synchronous_commit = local|-c ALTER ROLE cfgsvc_replica NOLOGIN|\
                     -c SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
                },
            ),
        };
        let words = program.split(' ').chain(statements.split('|'));
        words.map(str::to_owned).collect()
    }

    /// One write in the epoch; prints its number when it is acknowledged.
    pub(super) fn write(self, id: u64, epoch: i64) -> String {
        match self {
            Self::MariaDb => format!(
                "INSERT INTO orders VALUES ({id}, cfgsvc.at_epoch({epoch}), @@port); SELECT {id};\n"
            ),
            Self::Postgres => format!(
                "INSERT INTO orders VALUES ({id}, cfgsvc.at_epoch({epoch}), \
                 current_setting('port')::bigint); SELECT {id};\n"
            ),
        }
    }

    /// All that was written.
    pub(super) fn rows(self) -> &'static str {
        match self {
            Self::MariaDb => "SELECT CONCAT(id, '|', epoch, '|', port) FROM orders;\n",
            Self::Postgres => "SELECT id || '|' || epoch || '|' || port FROM orders;\n",
        }
    }
}
