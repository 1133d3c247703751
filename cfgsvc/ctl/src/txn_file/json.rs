//! The JSON form. What the text form has, and besides nested transactions, and any bytes as
//! base64 (`"encoding": "base64"` for the value, `"key_encoding"` for the key).

use super::FileError;
use crate::lease_id::hex_lease;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cfgsvc_client::{Compare, Delete, Get, Is, Keys, Op, Put, Txn};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonTxn {
    #[serde(default, rename = "if")]
    compares: Vec<JsonCompare>,
    #[serde(default)]
    then: Vec<JsonOp>,
    #[serde(default, rename = "else")]
    otherwise: Vec<JsonOp>,
}

/// Checked while it is read, so that an error has a place.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawCompare")]
struct JsonCompare(Compare);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCompare {
    key: String,
    #[serde(default)]
    key_encoding: Encoding,
    #[serde(default)]
    prefix: bool,
    #[serde(default)]
    is: Sign,
    value: Option<String>,
    #[serde(default)]
    encoding: Encoding,
    #[serde(rename = "mod")]
    modified: Option<i64>,
    version: Option<i64>,
    create: Option<i64>,
    lease: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
enum Sign {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = ">")]
    Greater,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Text,
    Base64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum JsonOp {
    Get(JsonKeys),
    Put(JsonPut),
    Del(JsonKeys),
    Txn(JsonTxn),
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "RawKeys")]
struct JsonKeys(Keys);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKeys {
    key: String,
    #[serde(default)]
    key_encoding: Encoding,
    #[serde(default)]
    prefix: bool,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "RawPut")]
struct JsonPut(Put);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPut {
    key: String,
    #[serde(default)]
    key_encoding: Encoding,
    value: String,
    #[serde(default)]
    encoding: Encoding,
    lease: Option<String>,
}

fn bytes(text: String, encoding: Encoding, what: &str) -> Result<Vec<u8>, String> {
    match encoding {
        Encoding::Text => Ok(text.into_bytes()),
        Encoding::Base64 => STANDARD
            .decode(text)
            .map_err(|error| format!("the {what} is not base64: {error}")),
    }
}

fn keys(key: String, encoding: Encoding, prefix: bool) -> Result<Keys, String> {
    let key = bytes(key, encoding, "key")?;
    Ok(if prefix {
        Keys::prefix(key)
    } else {
        Keys::from(key)
    })
}

impl TryFrom<RawKeys> for JsonKeys {
    type Error = String;

    fn try_from(raw: RawKeys) -> Result<Self, String> {
        Ok(Self(keys(raw.key, raw.key_encoding, raw.prefix)?))
    }
}

impl TryFrom<RawPut> for JsonPut {
    type Error = String;

    fn try_from(raw: RawPut) -> Result<Self, String> {
        let key = bytes(raw.key, raw.key_encoding, "key")?;
        let put = Put::new(key, bytes(raw.value, raw.encoding, "value")?);
        Ok(Self(match raw.lease {
            Some(lease) => put.lease(hex_lease(&lease)?),
            None => put,
        }))
    }
}

impl TryFrom<RawCompare> for JsonCompare {
    type Error = String;

    fn try_from(raw: RawCompare) -> Result<Self, String> {
        let keys = keys(raw.key, raw.key_encoding, raw.prefix)?;
        let is = match raw.is {
            Sign::Equal => Is::Equal,
            Sign::NotEqual => Is::NotEqual,
            Sign::Less => Is::Less,
            Sign::Greater => Is::Greater,
        };
        let compare = match (raw.value, raw.modified, raw.version, raw.create, raw.lease) {
            (Some(value), None, None, None, None) => {
                Compare::value(keys, is, bytes(value, raw.encoding, "value")?)
            }
            (None, Some(revision), None, None, None) => Compare::mod_revision(keys, is, revision),
            (None, None, Some(version), None, None) => Compare::version(keys, is, version),
            (None, None, None, Some(revision), None) => {
                Compare::create_revision(keys, is, revision)
            }
            (None, None, None, None, Some(lease)) => Compare::lease(keys, is, hex_lease(&lease)?),
            _ => {
                return Err(
                    "a condition needs exactly one of value, mod, version, create and lease".into(),
                );
            }
        };
        Ok(Self(compare))
    }
}

impl JsonTxn {
    fn into_txn(self) -> Txn {
        let mut txn = Txn::new();
        for compare in self.compares {
            txn = txn.when(compare.0);
        }
        for op in self.then {
            txn = txn.then(op.into_op());
        }
        for op in self.otherwise {
            txn = txn.otherwise(op.into_op());
        }
        txn
    }
}

impl JsonOp {
    fn into_op(self) -> Op {
        match self {
            Self::Get(keys) => Op::Get(Get::new(keys.0)),
            Self::Put(put) => Op::Put(put.0),
            Self::Del(keys) => Op::Delete(Delete::new(keys.0)),
            Self::Txn(txn) => Op::Txn(txn.into_txn()),
        }
    }
}

pub(super) fn parse(file: &str) -> Result<Txn, FileError> {
    let txn: JsonTxn = serde_json::from_str(file).map_err(|error| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        FileError {
            line: error.line().max(1),
            column: error.column().max(1),
            what: text.strip_suffix(&place).unwrap_or(&text).to_owned(),
        }
    })?;
    Ok(txn.into_txn())
}
