//! A zone, or what has changed in it, on its way to a secondary: one message after the other, each
//! made when it is asked for (RFC 5936, RFC 1995).
//!
//! ```text
//! SOA │ every other record, names in canonical order │ SOA        the whole zone
//! SOA │ SOA 7 │ gone │ SOA 8 │ new │ SOA 8 │ gone │ ... │ SOA     what has changed since 7
//! SOA                                                             the client has what there is
//! ```
//!
//! The tree is held as it was when the transfer began: a zone that changes meanwhile is sent as it
//! was, and the client hears of the change by another way. Nothing of it is copied or listed: what
//! is kept is the place of the next record.
//!
//! Invariants
//! - the closing SOA is sent only after all that is before it, by a server that was fresh before
//!   each message. A transfer that does not get so far ends with SERVFAIL (RFC 5936 2.2), which
//!   nobody can take for an end;
//! - a record is in one message whole, and a set may be in several (RFC 5936 2.2): it can be larger
//!   than a message;
//! - names keep the case of the zone (RFC 5936 3.4);
//! - to a signed request every message is signed (RFC 8945 5.3.1).

use std::sync::Arc;

use cfgdns_zone::Rtype;

use crate::answer::CLASS_IN;
use crate::encode::{Full, Opt, Section, Writer};
use crate::history::octets_of;
use crate::reply::{ExtendedError, Rcode};
use crate::respond::{Moment, State, TCP_OCTETS_MAX};
use crate::serial::is_before;
use crate::tree::{APEX, NodeId, Tree};
use crate::tsig::Signer;
use crate::whole::signed_sets;

/// Octets of a message, but where one record has more: as far as pointers reach (RFC 1035 4.1.4),
/// so that each name can be pointed at. Beyond that messages grow faster than what they say.
pub const STREAM_OCTETS: usize = 16_384;

/// Why a transfer is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All was sent.
    Complete,
    /// The server may speak of zones no longer. The client was told so.
    NotFresh,
    /// A record fits into no message. The client was told that it failed.
    TooLarge,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// The SOA alone: the client has this version, or a newer one.
    Current,
    /// All records.
    Whole,
    /// The steps of the history from this one on.
    Steps(usize),
}

impl Form {
    /// What is sent to a client that has this serial, or none.
    pub(crate) fn since(zone: &Tree, serial: Option<u32>) -> Self {
        let Some(serial) = serial else {
            return Self::Whole;
        };
        if !is_before(serial, zone.soa().serial) {
            // RFC 1995 2: the same, or a newer one.
            return Self::Current;
        }
        match zone.history().find(serial) {
            // RFC 1995 5: where the way to the zone is longer than it is, it is sent itself.
            Some(first) if octets_of(zone) > zone.history().octets_from(first) => {
                Self::Steps(first)
            }
            _ => Self::Whole,
        }
    }
}

/// What all messages of a transfer have.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    /// Tells the reply from others.
    pub(crate) id: u16,
    /// As the request had it.
    pub(crate) recursion_desired: bool,
    /// As it came.
    pub(crate) question: Vec<u8>,
    /// When the request had one; its options are in the first message only.
    pub(crate) opt: Option<Opt>,
    /// When the request was signed.
    pub(crate) signer: Option<Signer>,
}

/// The next record.
#[derive(Debug, Clone, Copy)]
enum Place {
    First,
    Zone {
        node: NodeId,
        set: usize,
        record: usize,
    },
    /// Of the record of a step that is at `at`.
    Step {
        number: usize,
        at: usize,
    },
    Last,
    Done,
}

/// A transfer: its messages go over the connection that asked for it, in this order.
#[derive(Debug, Clone)]
pub struct Stream {
    zone: Arc<Tree>,
    form: Form,
    place: Place,
    envelope: Envelope,
    messages: u64,
    end: Option<End>,
}

impl Stream {
    pub(crate) fn new(zone: Arc<Tree>, form: Form, envelope: Envelope) -> Self {
        Self {
            zone,
            form,
            place: Place::First,
            envelope,
            messages: 0,
            end: None,
        }
    }

    /// The zone, as it is sent.
    pub fn zone(&self) -> &Tree {
        &self.zone
    }

    /// Whether only what has changed is sent, or that nothing has.
    pub fn is_incremental(&self) -> bool {
        matches!(self.form, Form::Current | Form::Steps(_))
    }

    /// How many messages were made.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Why it is over; none when there is more. When it is not complete, a client that reads no
    /// error in the midst of a transfer sees it by the end of the connection: close it.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The next message, of at most 65,535 octets; none when there is no more.
    pub fn next(&mut self, state: &State, now: Moment) -> Option<Vec<u8>> {
        if self.end.is_some() {
            return None;
        }
        if let Some(error) = state.freshness.error(now) {
            self.end = Some(End::NotFresh);
            return Some(self.failure(Some(error), now));
        }
        for limit in [STREAM_OCTETS, TCP_OCTETS_MAX] {
            if let Some(message) = self.message(limit, now) {
                return Some(message);
            }
        }
        self.end = Some(End::TooLarge);
        Some(self.failure(None, now))
    }

    /// All of it, when that fits into one message of at most so many octets.
    pub(crate) fn datagram(mut self, limit: usize, now: Moment) -> Option<Vec<u8>> {
        let message = self.message(limit, now)?;
        (self.end == Some(End::Complete)).then_some(message)
    }

    /// A message with as many records as fit; none when the next does not.
    fn message(&mut self, limit: usize, now: Moment) -> Option<Vec<u8>> {
        let mut opt = self.envelope.opt.clone();
        let mut writer = Writer::keeping_case(Opt::limit(opt.as_ref(), limit));
        if self.messages == 0 {
            writer.question(&self.envelope.question).ok()?;
        } else if let Some(opt) = &mut opt {
            opt.options.clear();
        }
        writer.reserve(self.reserved(opt.as_ref())).ok()?;
        self.fill(&mut writer);
        if writer.count(Section::Answer) == 0 {
            return None;
        }
        self.messages += 1;
        Some(self.finish(writer, opt.as_ref(), Rcode::NoError, now))
    }

    /// Octets of what is written last.
    fn reserved(&self, opt: Option<&Opt>) -> usize {
        let signer = self.envelope.signer.as_ref();
        opt.map_or(0, Opt::octets) + signer.map_or(0, Signer::octets)
    }

    /// What tells the client that the transfer failed.
    fn failure(&mut self, error: Option<ExtendedError>, now: Moment) -> Vec<u8> {
        let mut opt = self.envelope.opt.clone();
        let mut writer = Writer::new(Opt::limit(opt.as_ref(), TCP_OCTETS_MAX));
        let question = writer.question(&self.envelope.question);
        question.expect("a message holds a question");
        if let Some(opt) = &mut opt {
            opt.options.clear();
            opt.extended_error(error);
        }
        let reserved = writer.reserve(self.reserved(opt.as_ref()));
        reserved.expect("a message holds more than these");
        self.messages += 1;
        self.finish(writer, opt.as_ref(), Rcode::ServFail, now)
    }

    /// Takes the message from its writer, with what room was kept for.
    fn finish(
        &mut self,
        mut writer: Writer,
        opt: Option<&Opt>,
        rcode: Rcode,
        now: Moment,
    ) -> Vec<u8> {
        writer.release(self.reserved(opt));
        if let Some(opt) = opt {
            let signer = self.envelope.signer.as_ref();
            opt.write(&mut writer, signer.map_or(0, Signer::octets));
        }
        let envelope = &mut self.envelope;
        let [i0, i1] = envelope.id.to_be_bytes();
        // RFC 5936 2.2.1: AA is set where there is no error, TC never.
        let authoritative = u8::from(rcode == Rcode::NoError) << 2;
        let flags = 0x80 | authoritative | u8::from(envelope.recursion_desired);
        let mut message = writer.finish([i0, i1, flags, rcode.code()]);
        if let Some(signer) = &mut envelope.signer {
            signer.sign(&mut message, now.unix_seconds);
        }
        message
    }

    /// Writes records from the place on, until the message is full or all is said.
    fn fill(&mut self, writer: &mut Writer) {
        loop {
            let written = match self.place {
                Place::First => self.write_soa(writer).map(|()| match self.form {
                    Form::Current => Place::Done,
                    Form::Whole => Place::Zone {
                        node: APEX,
                        set: 0,
                        record: 0,
                    },
                    Form::Steps(number) => Place::Step { number, at: 0 },
                }),
                Place::Step { number, at } => self.write_step(writer, number, at),
                Place::Zone { node, set, record } => {
                    match write_zone(writer, &self.zone, (node, set, record)) {
                        Ok(()) => Ok(Place::Last),
                        Err((node, set, record)) => {
                            self.place = Place::Zone { node, set, record };
                            return;
                        }
                    }
                }
                Place::Last => self.write_soa(writer).map(|()| Place::Done),
                Place::Done => {
                    self.end = Some(End::Complete);
                    return;
                }
            };
            match written {
                Ok(next) => self.place = next,
                Err(Full) => return,
            }
        }
    }

    /// Writes a record of a step, and says what is next.
    fn write_step(&self, writer: &mut Writer, number: usize, at: usize) -> Result<Place, Full> {
        let Some(step) = self.zone.history().step(number) else {
            return Ok(Place::Last);
        };
        let Some((record, next)) = step.record(at) else {
            let number = number + 1;
            return Ok(Place::Step { number, at: 0 });
        };
        let meta = (record.rtype, CLASS_IN, record.ttl);
        writer.whole(|writer| writer.record(Section::Answer, record.owner, meta, record.data))?;
        Ok(Place::Step { number, at: next })
    }

    fn write_soa(&self, writer: &mut Writer) -> Result<(), Full> {
        let set = self.zone.set(APEX, Rtype::SOA).expect("a tree has an SOA");
        let meta = (Rtype::SOA, CLASS_IN, set.ttl);
        let mut data = set.data;
        let data = data.next().expect("a set has a record");
        writer.whole(|writer| writer.record(Section::Answer, set.owner, meta, data))
    }
}

/// Writes the records of a zone without its SOA, from a place on; else where the next one is.
fn write_zone(
    writer: &mut Writer,
    zone: &Tree,
    (first, set_first, record_first): (NodeId, usize, usize),
) -> Result<(), (NodeId, usize, usize)> {
    for node in zone.nodes_from(first) {
        let from = if node == first {
            (set_first, record_first)
        } else {
            (0, 0)
        };
        let written = if zone.signer().is_some() {
            let sets = signed_sets(zone, node);
            let sets = sets.iter().map(|set| {
                let data = set.data.iter().map(|data| &**data);
                ((&*set.owner, set.rtype, set.ttl), data)
            });
            write_sets(writer, node, sets, from)
        } else {
            let sets = zone.sets(node);
            let sets = sets.map(|set| ((set.owner, set.rtype, set.ttl), set.data));
            write_sets(writer, node, sets, from)
        };
        written.map_err(|(set, record)| (node, set, record))?;
    }
    Ok(())
}

/// Writes the records of a name without its SOA, from a place on; else where the next one is.
fn write_sets<'a, D: Iterator<Item = &'a [u8]>>(
    writer: &mut Writer,
    node: NodeId,
    sets: impl Iterator<Item = ((&'a [u8], Rtype, u32), D)>,
    (set_first, record_first): (usize, usize),
) -> Result<(), (usize, usize)> {
    for (number, ((owner, rtype, ttl), data)) in sets.enumerate().skip(set_first) {
        if node == APEX && rtype == Rtype::SOA {
            // It has its own places.
            continue;
        }
        let records_done = if number == set_first { record_first } else { 0 };
        let meta = (rtype, CLASS_IN, ttl);
        for (record, data) in data.enumerate().skip(records_done) {
            let written = writer.whole(|writer| writer.record(Section::Answer, owner, meta, data));
            written.map_err(|Full| (number, record))?;
        }
    }
    Ok(())
}
