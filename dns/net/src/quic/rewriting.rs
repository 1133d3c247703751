//! A reply that is octets, as hickory takes replies: in records, which it encodes again.
//!
//! Nothing is lost, because nothing is understood: the data of a record, an OPT record too, go
//! through as octets, whatever their type. Only the names that our octets may have compressed
//! (RFC 3597 4) are written out, since pointers lead elsewhere in another message.

use cfgdns_core::TCP_OCTETS_MAX;
use cfgdns_zone::{Rtype, compressible};
use hickory_server::proto::op::{Header, Metadata};
use hickory_server::proto::rr::rdata::NULL;
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder, DecodeError};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};

/// What replies to padded requests are a multiple of (RFC 8467 4.1).
const BLOCK: usize = 468;
/// The option of an OPT record that hides how long a message is (RFC 7830 3).
const PADDING: u16 = 12;
/// Octets before the data of an option: its code, and how long it is.
const OPTION_HEAD_OCTETS: usize = 4;

type Records<'a> = std::slice::Iter<'a, Record>;
/// What hickory sends.
pub(super) type Response<'a> =
    MessageResponse<'a, 'a, Records<'a>, Records<'a>, Records<'a>, Records<'a>>;

/// A reply that was read.
pub(super) struct Rewritten {
    metadata: Metadata,
    question: Queries,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Rewritten {
    /// Reads a reply of ours.
    pub(super) fn read(octets: &[u8]) -> Result<Self, DecodeError> {
        let decoder = &mut BinDecoder::new(octets);
        let Header { metadata, counts } = Header::read(decoder)?;
        let mut rewritten = Self {
            metadata,
            question: Queries::read(decoder, usize::from(counts.queries))?,
            answer: records(decoder, counts.answers)?,
            authority: records(decoder, counts.authorities)?,
            additional: records(decoder, counts.additionals)?,
        };
        if rewritten.measure().is_none() {
            // A truncated reply has no records, as elsewhere; an OPT record is no data.
            rewritten.metadata.truncation = true;
            rewritten.answer.clear();
            rewritten.authority.clear();
            let kept = |record: &Record| record.record_type() == RecordType::OPT;
            rewritten.additional.retain(kept);
        }
        rewritten.pad();
        Ok(rewritten)
    }

    /// The reply for hickory.
    pub(super) fn response(&self) -> Response<'_> {
        MessageResponseBuilder::new(&self.question, None).build(
            self.metadata,
            &self.answer,
            &self.authority,
            &[],
            &self.additional,
        )
    }

    /// Octets that hickory makes of it; none when it has to leave something out.
    fn measure(&self) -> Option<usize> {
        let mut octets = Vec::new();
        let mut encoder = BinEncoder::new(&mut octets);
        let info = self.response().destructive_emit(&mut encoder).ok()?;
        (info.truncation == self.metadata.truncation).then_some(octets.len())
    }

    /// What was padded to whole blocks is so again.
    fn pad(&mut self) {
        let without = self
            .additional
            .iter_mut()
            .find_map(options)
            .map(take_padding);
        if without != Some(true) {
            return;
        }
        let Some(least) = self.measure().map(|octets| octets + OPTION_HEAD_OCTETS) else {
            return;
        };
        let padding = least
            .next_multiple_of(BLOCK)
            .min(TCP_OCTETS_MAX)
            .saturating_sub(least);
        if let (Some(options), Ok(count)) = (
            self.additional.iter_mut().find_map(options),
            u16::try_from(padding),
        ) {
            options.extend(PADDING.to_be_bytes());
            options.extend(count.to_be_bytes());
            options.resize(options.len() + padding, 0);
        }
    }
}

/// The options of an OPT record.
fn options(record: &mut Record) -> Option<&mut Vec<u8>> {
    let RData::Unknown { code, rdata } = &mut record.data else {
        return None;
    };
    (*code == RecordType::OPT).then_some(&mut rdata.anything)
}

/// Takes padding out of options: whether there was some.
fn take_padding(options: &mut Vec<u8>) -> bool {
    let mut at = 0;
    while let Some([c0, c1, l0, l1]) = options.get(at..).and_then(|rest| rest.first_chunk()) {
        let code = u16::from_be_bytes([*c0, *c1]);
        let end = at + OPTION_HEAD_OCTETS + usize::from(u16::from_be_bytes([*l0, *l1]));
        if code == PADDING && end <= options.len() {
            options.drain(at..end);
            return true;
        }
        at = end;
    }
    false
}

fn records(decoder: &mut BinDecoder<'_>, count: u16) -> Result<Vec<Record>, DecodeError> {
    (0..count).map(|_| record(decoder)).collect()
}

fn record(decoder: &mut BinDecoder<'_>) -> Result<Record, DecodeError> {
    let name = Name::read(decoder)?;
    let rtype = number(decoder)?;
    let class = number(decoder)?;
    let ttl = decoder.read_u32()?.unverified(/* it is ours */);
    let octets = usize::from(number(decoder)?);
    let end = decoder.index() + octets;
    let mut data = Vec::with_capacity(octets);
    let (before, names) = compressible(Rtype(rtype));
    data.extend(decoder.read_slice(before)?.unverified(/* it is ours */));
    for _ in 0..names {
        for label in &Name::read(decoder)? {
            let octets = u8::try_from(label.len())
                .map_err(|_| DecodeError::LabelBytesTooLong(label.len()))?;
            data.push(octets);
            data.extend(label);
        }
        data.push(0);
    }
    let rest = end.saturating_sub(decoder.index());
    data.extend(decoder.read_slice(rest)?.unverified(/* it is ours */));
    let mut rdata = NULL::new();
    rdata.anything = data;
    let code = RecordType::from(rtype);
    let mut record = Record::from_rdata(name, ttl, RData::Unknown { code, rdata });
    record.dns_class = DNSClass::from(class);
    Ok(record)
}

fn number(decoder: &mut BinDecoder<'_>) -> Result<u16, DecodeError> {
    Ok(decoder.read_u16()?.unverified(/* it is ours */))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cfgdns_core::{
        Arrival, Freshness, Local, Moment, Outcome, Settings, State, Transport, Tree,
        UDP_OCTETS_MAX, Zones, respond,
    };
    use cfgdns_testing::message::{Message, opt, query};
    use cfgdns_testing::zones::{any_name, any_zone};
    use cfgdns_zone::Zone;
    use hickory_server::net::xfer::Protocol;
    use hickory_server::server::Request;
    use proptest::prelude::*;

    use super::*;

    fn state(zone: &Zone) -> State {
        State {
            zones: Zones::new([Arc::new(Tree::build(zone).expect("it has an SOA"))]),
            freshness: Freshness::Until(u64::MAX),
            settings: Settings {
                udp_octets_max: UDP_OCTETS_MAX,
                ..Settings::default()
            },
        }
    }

    /// What is said here, and what hickory makes of it.
    fn both(state: &State, request: &[u8]) -> Option<(Message, Message)> {
        let arrival = Arrival {
            transport: Transport::Quic,
            client: "192.0.2.99:5353".parse().expect("an address"),
            now: Moment {
                unix_seconds: 0,
                monotonic_ms: 0,
            },
        };
        let Outcome::Send(ours) = respond(state, Local::default(), &arrival, request) else {
            return None;
        };
        let rewritten = Rewritten::read(&ours).expect("it is ours");
        let mut theirs = Vec::new();
        let mut encoder = BinEncoder::new(&mut theirs);
        let response = rewritten.response();
        response.destructive_emit(&mut encoder).expect("it fits");
        Some((Message::read(&ours), Message::read(&theirs)))
    }

    fn assert_same((ours, theirs): &(Message, Message)) {
        let opt = |message: &Message| {
            let opt = message.opt.as_ref();
            opt.map(|opt| (opt.udp_octets, opt.ttl, opt.options.clone()))
        };
        let of = |message: &Message| {
            let sections = [&message.answer, &message.authority, &message.additional];
            let sections = sections.map(Clone::clone);
            (
                message.id,
                message.flags,
                message.question.clone(),
                sections,
            )
        };
        assert_eq!((of(ours), opt(ours)), (of(theirs), opt(theirs)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn whatever_is_said_of_whatever_zone_is_said_without_loss(
            zone in any_zone("example."),
            name in any_name("example."),
            rtype in proptest::sample::select(vec![1, 2, 5, 6, 15, 39, 43, 64, 255, 65_280]),
            edns in any::<bool>(),
        ) {
            let wish = edns.then(|| opt(1_232, 0x8000, &[]));
            let request = query(&name.to_string(), Rtype(rtype), wish);
            assert_same(&both(&state(&zone), &request).expect("a reply"));
        }

        /// A panic of hickory's would end the whole server.
        #[test]
        fn arbitrary_octets_bring_nothing_down(
            octets in proptest::collection::vec(any::<u8>(), 0..120),
            counts in proptest::collection::vec(0..3_u8, 4),
            zone in any_zone("example."),
        ) {
            let mut octets = octets;
            for (at, count) in counts.iter().enumerate() {
                if let Some(place) = octets.get_mut(4 + 2 * at..6 + 2 * at) {
                    place.copy_from_slice(&[0, *count]);
                }
            }
            let client = "192.0.2.99:5353".parse().expect("an address");
            if Request::from_bytes(octets.clone(), client, Protocol::Quic).is_ok() {
                both(&state(&zone), &octets).iter().for_each(assert_same);
            }
        }
    }
}
