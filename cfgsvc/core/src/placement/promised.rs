//! How long a holder that a snapshot does not know of may serve.
//!
//! What was granted after a snapshot was taken is not in it: a role may have gone to another host,
//! which serves on while its lease lasts, though its group is gone. So nothing of a snapshot counts
//! before the longest lease of its roles is over, counted from when the former group was.

use cfgsvc_proto::state::{KeyRecord, LeaseRecord, Record};
use prost::Message;

use super::keys::Place;
use super::objects::Spec;
use crate::lease;
use crate::tables::Table;

/// How long, ms, whoever was promised what this record of a snapshot says may count on it: 0 for
/// all but roles and their leases. A record that says nothing promises nothing; the restore
/// refuses it.
pub fn promised_ms(record: &Record) -> u64 {
    match Table::of(&record.key) {
        Some(Table::Current) => of_role(record).unwrap_or(0),
        Some(Table::Lease) => match LeaseRecord::decode(record.value.clone()) {
            Ok(found) if !found.role.is_empty() => lease::ttl_ms(&found),
            Ok(_) | Err(_) => 0,
        },
        Some(_) | None => 0,
    }
}

fn of_role(record: &Record) -> Option<u64> {
    let Ok(Place::Role(_)) = Place::of(record.key.get(1..)?)? else {
        return None;
    };
    let found = KeyRecord::decode(record.value.clone()).ok()?;
    let spec: Spec = serde_json::from_slice(&found.value).ok()?;
    spec.check().ok()?;
    Some(spec.lease_ms())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tables;

    fn key(name: &str, value: &str) -> Record {
        let value = KeyRecord {
            value: value.to_owned().into(),
            ..KeyRecord::default()
        };
        Record {
            key: tables::current(name.as_bytes()),
            value: value.encode_to_vec().into(),
        }
    }

    fn lease(role: &str, ttl_ms: u64) -> Record {
        let value = LeaseRecord {
            ttl_s: 9,
            ttl_ms,
            role: role.to_owned(),
            ..LeaseRecord::default()
        };
        Record {
            key: tables::lease(7),
            value: value.encode_to_vec().into(),
        }
    }

    #[test]
    fn roles_and_their_leases_promise_and_nothing_else_does() {
        let role = r#"{"term_ms":2000,"stop_ms":500,"rate_ppm":1000}"#;
        assert_eq!(promised_ms(&key("/cfgsvc/roles/db/orders", role)), 2_002);
        assert_eq!(promised_ms(&lease("db/orders", 2_500)), 2_500);
        assert_eq!(promised_ms(&lease("", 0)), 0, "an application's");
        assert_eq!(promised_ms(&key("/cfgsvc/colos/akl", "{}")), 0);
        assert_eq!(promised_ms(&key("roles/db/orders", role)), 0);
        for broken in ["", "{", r#"{"term_ms":18446744073709551615}"#] {
            assert_eq!(promised_ms(&key("/cfgsvc/roles/x", broken)), 0, "{broken}");
        }
        let junk = Record {
            key: tables::lease(7),
            value: Bytes::from_static(&[0xff; 9]),
        };
        assert_eq!(promised_ms(&junk), 0);
    }
}
