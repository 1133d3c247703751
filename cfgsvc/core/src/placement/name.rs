//! Names of colos, hosts and roles.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a colo or a host, bytes; that of a DNS label (RFC 1035 2.3.4), with dots allowed
/// inside, so that a host may carry its domain.
const NAME_BYTES_MAX: usize = 253;
/// Longest name of a role, bytes.
const ROLE_BYTES_MAX: usize = 253;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadName {}

/// Whether `text` is letters, digits, `.`, `-` and `_`, and begins with a letter or a digit.
fn is_segment(text: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(of_name)
}

/// Name of a colo or a host: letters, digits, `.`, `-` and `_`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        if is_segment(&text) && text.len() <= NAME_BYTES_MAX {
            return Ok(Self(text));
        }
        Err(BadName(format!(
            "name '{}' must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '-' or '_', and begin \
             with a letter or a digit",
            shown(&text)
        )))
    }
}

/// Name of a role: one or more names, separated by slashes (`db/orders`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

impl RoleName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names a lock of an application, which begins and ends with its use.
    pub fn is_lock(&self) -> bool {
        self.0.starts_with("locks/")
    }
}

impl TryFrom<String> for RoleName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        if text.split('/').all(is_segment) && text.len() <= ROLE_BYTES_MAX {
            return Ok(Self(text));
        }
        Err(BadName(format!(
            "role '{}' must be names separated by '/', {ROLE_BYTES_MAX} bytes at most; a name is \
             letters, digits, '.', '-' or '_', and begins with a letter or a digit",
            shown(&text)
        )))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

macro_rules! of_text {
    ($name:ident) => {
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::try_from(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

of_text!(Name);
of_text!(RoleName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_roles_have_segments() {
        for good in ["a", "Akl-1", "n1.akl.example", "0_x"] {
            assert_eq!(good.parse::<Name>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", &"a".repeat(254)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        for good in ["db", "db/orders", "locks/a.b/c"] {
            assert!(good.parse::<RoleName>().is_ok(), "{good}");
        }
        for bad in ["", "/", "db/", "/db", "a//b", "a/../b", &"a/".repeat(200)] {
            assert!(bad.parse::<RoleName>().is_err(), "{bad}");
        }
    }
}
