//! What a client says beside its request: who asks and why, its request id, whether it needs a
//! leader.

use tonic::Status;
use tonic::metadata::MetadataMap;

/// Longest author in bytes.
const AUTHOR_BYTES_MAX: usize = 256;
/// Longest reason in bytes.
const REASON_BYTES_MAX: usize = 1024;
/// Most of a refused number that an error repeats.
const SHOWN_BYTES_MAX: usize = 64;

/// Who asks for a change, why, and its request id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestMeta {
    /// Who asks; may be empty.
    pub author: String,
    /// Why; may be empty.
    pub reason: String,
    /// Lease that is the client's session; 0 is none.
    pub session: i64,
    /// Number of the request in the session, from 1 on; 0 without a session.
    pub seq: u64,
    /// Replies up to this number have reached the client.
    pub ack: u64,
}

impl RequestMeta {
    /// Reads it from the metadata of a request.
    pub fn parse(metadata: &MetadataMap) -> Result<Self, Status> {
        if metadata.is_empty() {
            return Ok(Self::default());
        }
        let session = number(metadata, "cfgsvc-session")?;
        let seq: Option<u64> = number(metadata, "cfgsvc-seq")?;
        let ack: Option<u64> = number(metadata, "cfgsvc-ack")?;
        let (session, seq) = match (session, seq) {
            (None, None) if ack.is_none() => (0, 0),
            (Some(session), Some(seq)) if session != 0 && seq != 0 => (session, seq),
            _ => {
                return Err(Status::invalid_argument(
                    "cfgsvc-session and cfgsvc-seq go together and are not 0; cfgsvc-ack needs \
                     both",
                ));
            }
        };
        Ok(Self {
            author: text(metadata, "cfgsvc-author", AUTHOR_BYTES_MAX)?,
            reason: text(metadata, "cfgsvc-reason", REASON_BYTES_MAX)?,
            session,
            seq,
            ack: ack.unwrap_or(0),
        })
    }
}

/// Whether the client wants no answer of a member without a leader.
pub fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

fn text(metadata: &MetadataMap, name: &str, bytes_max: usize) -> Result<String, Status> {
    let Some(value) = metadata.get(name) else {
        return Ok(String::new());
    };
    let bytes = value.as_bytes();
    if bytes.len() > bytes_max {
        return Err(Status::invalid_argument(format!(
            "{name} is {} bytes, at most {bytes_max}",
            bytes.len()
        )));
    }
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Status::invalid_argument(format!("{name} is not UTF-8")))
}

fn number<T: std::str::FromStr>(metadata: &MetadataMap, name: &str) -> Result<Option<T>, Status> {
    let Some(value) = metadata.get(name) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    match parsed {
        Some(number) => Ok(Some(number)),
        None => Err(Status::invalid_argument(format!(
            "{name} is `{}`, expected a decimal number",
            value
                .as_bytes()
                .escape_ascii()
                .take(SHOWN_BYTES_MAX)
                .map(char::from)
                .collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{MetadataKey, MetadataValue};

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<RequestMeta, String> {
        let mut metadata = MetadataMap::new();
        for (name, value) in pairs {
            let key = MetadataKey::from_bytes(name.as_bytes()).expect("a name");
            let value = MetadataValue::try_from(value.as_bytes()).expect("a value");
            metadata.insert(key, value);
        }
        RequestMeta::parse(&metadata).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn author_reason_and_request_id_are_read() {
        let meta = parse(&[
            ("cfgsvc-author", "zoë"),
            ("cfgsvc-reason", "drill"),
            ("cfgsvc-session", "-7"),
            ("cfgsvc-seq", "3"),
            ("cfgsvc-ack", "2"),
        ]);
        let expected = RequestMeta {
            author: "zoë".to_owned(),
            reason: "drill".to_owned(),
            session: -7,
            seq: 3,
            ack: 2,
        };
        assert_eq!(meta, Ok(expected));
        assert_eq!(parse(&[("user-agent", "x")]), Ok(RequestMeta::default()));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let long = "x".repeat(257);
        let cases: [&[(&str, &str)]; 6] = [
            &[("cfgsvc-author", &long)],
            &[("cfgsvc-session", "x")],
            &[("cfgsvc-session", &long)],
            &[("cfgsvc-session", "1")],
            &[("cfgsvc-session", "1"), ("cfgsvc-seq", "0")],
            &[("cfgsvc-ack", "1")],
        ];
        let texts: Vec<String> = cases
            .iter()
            .map(|pairs| parse(pairs).expect_err("refused"))
            .collect();
        expect_test::expect![[r#"
            cfgsvc-author is 257 bytes, at most 256
            cfgsvc-session is `x`, expected a decimal number
            cfgsvc-session is `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`, expected a decimal number
            cfgsvc-session and cfgsvc-seq go together and are not 0; cfgsvc-ack needs both
            cfgsvc-session and cfgsvc-seq go together and are not 0; cfgsvc-ack needs both
            cfgsvc-session and cfgsvc-seq go together and are not 0; cfgsvc-ack needs both"#]]
        .assert_eq(&texts.join("\n"));
    }
}
