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
            data.push(u8::try_from(label.len()).expect("a label has 63 octets at most"));
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
