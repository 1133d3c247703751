//! Settings: from flags, environment and a TOML file to one checked [`Settings`].
//!
//! Why a table: one entry gives the flag, the environment variable, the file's key and the help
//! text, so that the four cannot differ.
//!
//! Invariants
//! - [`resolve`] is pure; precedence is flag, environment, file, default.
//! - all bad settings are reported together, each with what was found and what is allowed.

mod parse;
mod settings;

use std::collections::BTreeMap;
use std::fmt;

pub use parse::{host_port, name};
pub use settings::{LogFormat, Settings, Start};

/// Prefix of environment variables: `CFGSVCD_DATA_DIR` is `--data-dir`.
pub const ENVIRONMENT_PREFIX: &str = "CFGSVCD_";

/// Texts of settings by name (`data-dir`), from one source.
pub type Texts = BTreeMap<String, String>;

/// One setting as the user meets it.
pub struct Setting {
    /// Name of the flag without dashes.
    pub name: &'static str,
    /// Placeholder of its value in the help; empty for a switch.
    pub value: &'static str,
    /// Text that counts when no source has it; empty when absence is the default.
    pub default: &'static str,
    /// One line for the help.
    pub help: &'static str,
}

const fn setting(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        value,
        default,
        help,
    }
}

/// All settings, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    setting(
        "name",
        "NAME",
        "default",
        "Unique name of this member in the group",
    ),
    setting(
        "colo",
        "NAME",
        "default",
        "Failure domain that this member is in",
    ),
    setting(
        "data-dir",
        "DIR",
        "./cfgsvc.data",
        "Where log, state and identity are kept",
    ),
    setting(
        "listen-client",
        "HOST:PORT",
        "127.0.0.1:2379",
        "Where clients connect (gRPC and HTTP)",
    ),
    setting(
        "listen-peer",
        "HOST:PORT",
        "",
        "Where members connect [default: this member's place in \
             --initial-cluster, else 127.0.0.1:2380]",
    ),
    setting(
        "advertise-client",
        "HOST:PORT,...",
        "",
        "What clients are told to connect to [default: --listen-client]",
    ),
    setting(
        "advertise-peer",
        "HOST:PORT",
        "",
        "What members are told to connect to [default: this member's place in \
             --initial-cluster, else --listen-peer]",
    ),
    setting(
        "initial-cluster",
        "NAME=HOST:PORT,...",
        "",
        "All first members with their peer addresses, the same for each",
    ),
    setting(
        "join",
        "HOST:PORT",
        "",
        "Join the group that serves at this client address",
    ),
    setting(
        "learner",
        "",
        "false",
        "With --join: stay a learner when caught up",
    ),
    setting(
        "danger-adopt-copied-data",
        "",
        "false",
        "Accept a data directory that was copied or moved; never while the original exists",
    ),
    setting(
        "heartbeat-ms",
        "MS",
        "100",
        "Time between heartbeats of the leader",
    ),
    setting(
        "election-ms",
        "MS",
        "500",
        "Time without a leader after which an election starts; at least 5 heartbeats",
    ),
    setting(
        "snapshot-entries",
        "COUNT",
        "100000",
        "Log entries between snapshots",
    ),
    setting(
        "compact-after",
        "DURATION",
        "0",
        "Compact history older than this, such as 24h; 0 keeps it",
    ),
    setting(
        "compact-keep",
        "COUNT",
        "0",
        "Revisions that compaction keeps in any case; alone: compact all older ones; 0 is none",
    ),
    setting(
        "quota-bytes",
        "BYTES",
        "0",
        "Refuse writes when the data takes more; 0 is no quota",
    ),
    setting(
        "max-request-bytes",
        "BYTES",
        "1536KiB",
        "Largest write request",
    ),
    setting(
        "min-free-bytes",
        "BYTES",
        "256MiB",
        "Refuse writes when the disk has less left",
    ),
    setting(
        "log",
        "FILTER",
        "info",
        "What to log: a level, or TARGET=LEVEL pairs",
    ),
    setting("log-format", "text|json", "text", "How to log"),
];

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it came from, by the name it has there.
    pub origin: String,
    /// Text that was found; empty when it is not set.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match self.found.as_str() {
            "" => f.write_str("not set")?,
            found => write!(f, "found `{found}`")?,
        }
        write!(f, ", allowed: {}", self.allowed)
    }
}

/// Settles what counts. `flags` and `file` are by setting name, `environment` by variable name with
/// the prefix; variables without it are ignored.
pub fn resolve(flags: &Texts, environment: &Texts, file: &Texts) -> Result<Settings, Vec<Problem>> {
    let mut resolver = Resolver {
        flags,
        environment,
        file,
        problems: Vec::new(),
    };
    resolver.refuse_unknown();
    let settings = settings::build(&mut resolver);
    match settings {
        Some(settings) if resolver.problems.is_empty() => Ok(settings),
        Some(_) | None => Err(resolver.problems),
    }
}

/// Name of the environment variable of a setting.
fn variable(name: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        name.to_ascii_uppercase().replace('-', "_")
    )
}

/// Looks settings up and collects what is wrong with them.
struct Resolver<'a> {
    flags: &'a Texts,
    environment: &'a Texts,
    file: &'a Texts,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// Text and origin of a setting; `None` when nobody set it and it has no default.
    fn find(&self, name: &str) -> Option<(String, String)> {
        if let Some(text) = self.flags.get(name) {
            return Some((text.clone(), format!("--{name}")));
        }
        if let Some(text) = self.environment.get(&variable(name)) {
            return Some((text.clone(), variable(name)));
        }
        if let Some(text) = self.file.get(name) {
            return Some((text.clone(), format!("`{name}` in the settings file")));
        }
        let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
        (!setting.default.is_empty()).then(|| (setting.default.to_owned(), format!("--{name}")))
    }

    /// Value of a setting, read by `parse`; a problem is noted.
    fn get<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (found, origin) = self.find(name)?;
        match parse(&found) {
            Ok(value) => Some(value),
            Err(allowed) => {
                self.problems.push(Problem {
                    origin,
                    found,
                    allowed,
                });
                None
            }
        }
    }

    /// Notes that the setting `name` is wrong beside the others.
    fn refuse(&mut self, name: &str, allowed: impl Into<String>) {
        let (found, origin) = self
            .find(name)
            .unwrap_or_else(|| (String::new(), format!("--{name}")));
        self.problems.push(Problem {
            origin,
            found,
            allowed: allowed.into(),
        });
    }

    fn refuse_unknown(&mut self) {
        let known = |name: &str| SETTINGS.iter().any(|setting| setting.name == name);
        let names = || {
            SETTINGS
                .iter()
                .map(|setting| setting.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        for name in self.file.keys().filter(|name| !known(name)) {
            self.problems.push(Problem {
                origin: "the settings file".to_owned(),
                found: name.clone(),
                allowed: names(),
            });
        }
        let variables: Vec<String> = SETTINGS
            .iter()
            .map(|setting| variable(setting.name))
            .collect();
        let config = variable("config");
        for name in self.environment.keys() {
            let ours = name.starts_with(ENVIRONMENT_PREFIX);
            if ours && *name != config && !variables.contains(name) {
                self.problems.push(Problem {
                    origin: "the environment".to_owned(),
                    found: name.clone(),
                    allowed: variables.join(", "),
                });
            }
        }
    }
}

/// The command line.
pub fn command() -> clap::Command {
    let mut command = clap::Command::new("cfgsvcd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Coordination service: one member of a group that keeps versioned configuration")
        .after_help(
            "Each setting can also be given in the environment (CFGSVCD_DATA_DIR for --data-dir) \
             and in the settings file (data-dir = \"...\"). Flags win, then the environment.\n\n\
             Example: cfgsvcd --name n1 --colo akl --data-dir /var/lib/cfgsvc \\\n           \
             --listen-client 10.1.0.1:2379 \\\n           \
             --initial-cluster n1=10.1.0.1:2380,n2=10.2.0.1:2380,n3=10.3.0.1:2380",
        )
        .arg(
            clap::Arg::new("config")
                .long("config")
                .value_name("FILE")
                .env("CFGSVCD_CONFIG")
                .help("Settings file (TOML)"),
        );
    for setting in SETTINGS {
        let help = match setting.default {
            "" | "false" => setting.help.to_owned(),
            default => format!("{} [default: {default}]", setting.help),
        };
        let arg = clap::Arg::new(setting.name).long(setting.name).help(help);
        command = command.arg(if setting.value.is_empty() {
            arg.value_name("true|false")
                .num_args(0..=1)
                .default_missing_value("true")
                .require_equals(true)
        } else {
            arg.value_name(setting.value).allow_hyphen_values(true)
        });
    }
    command
}

/// The flags that were given, by setting name.
pub fn flag_texts(matches: &clap::ArgMatches) -> Texts {
    SETTINGS
        .iter()
        .filter_map(|setting| {
            let text = matches.get_one::<String>(setting.name)?;
            Some((setting.name.to_owned(), text.clone()))
        })
        .collect()
}

/// The settings in the text of a settings file, or all that cannot be one. A list becomes its items
/// with commas between.
pub fn file_texts(text: &str) -> Result<Texts, Vec<Problem>> {
    let problem = |found: String| Problem {
        origin: "the settings file".to_owned(),
        found,
        allowed: "TOML with one `name = value` for each setting; a value is a string, a whole \
                  number, true, false, or a list of these"
            .to_owned(),
    };
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| vec![problem(error.to_string())])?;
    let (mut texts, mut problems) = (Texts::new(), Vec::new());
    for (name, value) in table {
        match plain(&value) {
            Some(text) => {
                texts.insert(name, text);
            }
            None => problems.push(problem(format!("{name} = {value}"))),
        }
    }
    if problems.is_empty() {
        Ok(texts)
    } else {
        Err(problems)
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(plain).collect();
            Some(items?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests;
