//! The keys that requests and replies are signed with (RFC 8945), and the file that has them.
//!
//! ```text
//! transfer.example.  hmac-sha256  c2VjcmV0...             a line each
//! key "transfer.example." { algorithm hmac-sha256; secret "c2VjcmV0..."; };
//! ```
//!
//! The second form is what `tsig-keygen` prints and BIND reads: operators have such files already.
//! Both may be in one file; `#`, `//` and, before a key, `;` begin comments.
//!
//! A secret is wiped when its key is dropped, and never shown: not by `Debug`, not in what is said
//! about a file that cannot be read, which quotes none of its words, because one that is at the
//! wrong place may be the secret.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use cfgdns_zone::{Name, base64_decode};
use zeroize::Zeroizing;

/// Octets of a file of keys: some thousand of them.
pub const KEY_FILE_OCTETS_MAX: usize = 1 << 20;
/// Octets of the shortest secret. RFC 8945 8 asks for as many as the hash has; less than these can
/// be guessed.
pub const SECRET_OCTETS_MIN: usize = 16;

/// How a message is hashed with the secret (RFC 8945 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Only for those who have such keys: RFC 8945 6 does not recommend it, but it must be there.
    HmacSha1,
    /// Hardly anybody uses it.
    HmacSha224,
    /// The one to use.
    HmacSha256,
    /// A longer hash.
    HmacSha384,
    /// The longest hash.
    HmacSha512,
}

impl Algorithm {
    const ALL: [Self; 5] = [
        Self::HmacSha1,
        Self::HmacSha224,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
    ];

    /// Its name, without the dot at the end.
    pub fn text(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha224 => "hmac-sha224",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }

    /// Its name on the wire, in canonical form.
    pub(crate) fn name(self) -> Name {
        let name = Name::parse(self.text().as_bytes(), Some(&Name::root()));
        name.expect("one label")
    }

    /// The algorithm with this name.
    pub(crate) fn named(name: &Name) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == *name)
    }

    /// Octets of the whole hash.
    pub(crate) fn octets(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha224 => 28,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

impl FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let plain = text.strip_suffix('.').unwrap_or(text);
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.text().eq_ignore_ascii_case(plain))
            .ok_or(KeyError::Algorithm)
    }
}

/// A key that two servers share.
#[derive(Clone, PartialEq, Eq)]
pub struct TsigKey {
    name: Name,
    algorithm: Algorithm,
    secret: Zeroizing<Box<[u8]>>,
}

/// Why something is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such algorithm here.
    #[error(
        "the algorithm is none of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384, hmac-sha512; \
         `tsig-keygen NAME` makes a key of hmac-sha256"
    )]
    Algorithm,
    /// The name is none.
    #[error("the name of the key is not a name")]
    Name,
    /// The secret is no base64.
    #[error("the secret is not base64 (RFC 4648 4)")]
    Secret,
    /// The secret can be guessed.
    #[error("the secret has {0} octets: at least {SECRET_OCTETS_MIN}, or it can be guessed")]
    ShortSecret(usize),
}

impl TsigKey {
    /// A key, from its parts.
    pub fn new(name: Name, algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_OCTETS_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        // The form that is hashed (RFC 8945 4.3.3).
        let name = name.to_lowercase();
        let secret = Zeroizing::new(secret.into());
        Ok(Self {
            name,
            algorithm,
            secret,
        })
    }

    /// A key, from the words that a file has for it.
    pub fn parse(name: &str, algorithm: &str, secret: &str) -> Result<Self, KeyError> {
        let parsed = Name::parse(name.as_bytes(), Some(&Name::root()));
        let parsed = parsed.map_err(|_| KeyError::Name)?;
        let secret = base64_decode(secret.as_bytes()).map(Zeroizing::new);
        let secret = secret.ok_or(KeyError::Secret)?;
        Self::new(parsed, algorithm.parse()?, &secret)
    }

    /// Its name, in lower case.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How it hashes.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl fmt::Debug for TsigKey {
    /// Says which key it is, and not its secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TsigKey({} {} ..)", self.name, self.algorithm.text())
    }
}

/// The keys of a server, each name once.
#[derive(Debug, Clone, Default)]
pub struct TsigKeys(Arc<[Arc<TsigKey>]>);

/// Two keys have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are two keys with the name {0}")]
pub struct TwoKeys(pub Name);

impl TsigKeys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = TsigKey>) -> Result<Self, TwoKeys> {
        let mut keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        keys.sort_by(|first, second| first.name.cmp(&second.name));
        match keys.windows(2).find(|two| two[0].name == two[1].name) {
            Some(two) => Err(TwoKeys(two[0].name.clone())),
            None => Ok(Self(keys.into())),
        }
    }

    /// The key with this name.
    pub fn get(&self, name: &Name) -> Option<&Arc<TsigKey>> {
        let found = self.0.binary_search_by(|key| key.name.cmp(name));
        found.ok().map(|place| &self.0[place])
    }
}

/// Why a file of keys is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It has more than anybody needs.
    #[error("the file has {0} octets: at most {KEY_FILE_OCTETS_MAX}")]
    TooLarge(usize),
    /// What is there is no key.
    #[error("line {line}: {source}")]
    Key {
        /// Where the key begins.
        line: usize,
        /// Why.
        source: KeyError,
    },
    /// It has neither of the two forms.
    #[error(
        "line {line}: expected {expected}; a key is `NAME ALGORITHM BASE64` on a line of its own, \
         or what tsig-keygen prints"
    )]
    Form {
        /// Where.
        line: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// Two keys have the same name.
    #[error(transparent)]
    Twice(#[from] TwoKeys),
}

/// Reads a file of keys.
pub fn parse_keys(text: &str) -> Result<TsigKeys, KeyFileError> {
    if text.len() > KEY_FILE_OCTETS_MAX {
        return Err(KeyFileError::TooLarge(text.len()));
    }
    let mut lexer = Lexer {
        rest: text,
        line: 1,
    };
    let mut keys = Vec::new();
    while lexer.skip_to_key() {
        let line = lexer.line;
        let [name, algorithm, secret] = match lexer.line_key() {
            Some(words) => words,
            None => lexer.bind_key()?,
        };
        let key = TsigKey::parse(name, algorithm, secret);
        keys.push(key.map_err(|source| KeyFileError::Key { line, source })?);
    }
    Ok(TsigKeys::new(keys)?)
}

/// What separates words in the form of BIND.
const PUNCTUATION: [char; 4] = ['{', '}', ';', '"'];

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lexer<'a> {
    /// Goes over white space, which may be none.
    fn skip_space(&mut self) {
        let rest = self.rest.trim_start();
        self.line += self.rest[..self.rest.len() - rest.len()]
            .matches('\n')
            .count();
        self.rest = rest;
    }

    fn skip_line(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    /// Goes to where a key begins; false when there is none any more.
    fn skip_to_key(&mut self) -> bool {
        loop {
            self.skip_space();
            if !self.rest.starts_with(['#', ';']) && !self.rest.starts_with("//") {
                return !self.rest.is_empty();
            }
            self.skip_line();
        }
    }

    /// A key that is three words on a line.
    fn line_key(&mut self) -> Option<[&'a str; 3]> {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let mut words = self.rest[..end].split_whitespace();
        let found = [words.next()?, words.next()?, words.next()?];
        let plain = !found.concat().contains(PUNCTUATION);
        if !plain || words.next().is_some() {
            return None;
        }
        self.skip_line();
        Some(found)
    }

    /// `key "NAME" { algorithm NAME; secret "BASE64"; };`
    fn bind_key(&mut self) -> Result<[&'a str; 3], KeyFileError> {
        self.expect("key", "`key`")?;
        let name = self.word("the name of the key")?;
        self.expect("{", "`{`")?;
        let (mut algorithm, mut secret) = (None, None);
        loop {
            let line = self.line;
            let field = match self.token() {
                Some("algorithm") => &mut algorithm,
                Some("secret") => &mut secret,
                Some("}") => break,
                _ => {
                    let expected = "`algorithm`, `secret` or `}`";
                    return Err(KeyFileError::Form { line, expected });
                }
            };
            *field = Some(self.word("a word")?);
            self.expect(";", "`;`")?;
        }
        let line = self.line;
        self.expect(";", "`;`")?;
        let missing = |expected| KeyFileError::Form { line, expected };
        let algorithm = algorithm.ok_or_else(|| missing("`algorithm` before this"))?;
        let secret = secret.ok_or_else(|| missing("`secret` before this"))?;
        Ok([name, algorithm, secret])
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), KeyFileError> {
        let found = self.token();
        let line = self.line;
        let right = found == Some(token);
        right
            .then_some(())
            .ok_or(KeyFileError::Form { line, expected })
    }

    fn word(&mut self, expected: &'static str) -> Result<&'a str, KeyFileError> {
        let found = self.token();
        let line = self.line;
        let found = found.filter(|word| !word.is_empty() && !word.starts_with(PUNCTUATION));
        found.ok_or(KeyFileError::Form { line, expected })
    }

    /// The next word, without its quotes, or sign; none at the end, and where quotes are open.
    fn token(&mut self) -> Option<&'a str> {
        loop {
            self.skip_space();
            if !self.rest.starts_with('#') && !self.rest.starts_with("//") {
                break;
            }
            self.skip_line();
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let (word, rest) = quoted.split_once('"')?;
            self.rest = rest;
            return (!word.contains('\n')).then_some(word);
        }
        let mut ends = self
            .rest
            .char_indices()
            .filter(|(_, sign)| sign.is_whitespace() || PUNCTUATION.contains(sign));
        let end = match ends.next() {
            // A sign is a word.
            Some((0, sign)) => sign.len_utf8(),
            Some((end, _)) => end,
            None => self.rest.len(),
        };
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}
