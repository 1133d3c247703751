//! From the octets of a request to the octets of its reply: the one function that all transports
//! call.
//!
//! ```text
//! octets ─► Request ─┬─ no header, or a reply ──► silence
//!                    ├─ wrongly signed ─────────► NOTAUTH, and why
//!                    ├─ signed, over QUIC ──────► REFUSED, extended error 21
//!                    ├─ faulty, CHAOS ──────────► its error, or who we are
//!                    ├─ not fresh ──────────────► SERVFAIL, AA=0, extended error 14 or 24
//!                    ├─ AXFR, IXFR over TCP, TLS ► a stream of messages
//!                    └─ answer(zones) ─► rate limit (UDP without our cookie) ─► message
//! ```
//!
//! Invariants
//! - nothing of a zone, and no REFUSED that depends on which zones there are, leaves a server that
//!   is not fresh: it cannot know. It does not fall silent either, because that costs clients most;
//! - a reply has an OPT record when, and only when, the request has one that could be read;
//! - a reply keeps within what the transport and the client can take, with all sets whole; what
//!   does not fit is left out and, when it is missed, TC is set;
//! - the state is not changed, and the outcome depends on the arguments only.

use core::net::SocketAddr;
use std::sync::Arc;

use cfgdns_sign::SignatureCache;
use cfgdns_zone::{Name, Rtype};

use crate::answer::{CLASS_IN, Question, answer_within};
use crate::cookie::CLIENT_OCTETS;
use crate::dnssec::{Proving, Wanted, prove_answer, refuse_unsigned};
use crate::encode::{Full, Opt, Section, Writer};
use crate::limit::{Kind, Limiter, Verdict};
use crate::message::{Asked, Edns, HEADER_OCTETS, OPCODE_QUERY, Request, option};
use crate::reply::{ExtendedError, Rcode, Records, Reply};
use crate::settings::{Identity, Settings};
use crate::stream::{Envelope, Form, Stream};
use crate::tree::{APEX, Tree};
use crate::tsig::{Checked, Signing, check};
use crate::zones::Zones;

/// Octets of a UDP message that every client takes (RFC 1035 4.2.1).
pub const PLAIN_UDP_OCTETS: usize = 512;
/// Octets of a UDP message that is not fragmented on the way (RFC 9715 3.1, flag day 2020).
pub const UDP_OCTETS_MAX: u16 = 1_232;
/// Octets of a TCP message: its length has two octets (RFC 1035 4.2.2).
pub const TCP_OCTETS_MAX: usize = 65_535;

/// The class of questions about the server itself (RFC 4892).
const CLASS_CHAOS: u16 = 3;

/// Whether the group has confirmed that the zones are what it has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Not since the server started.
    Never,
    /// It has, and that holds until this moment of the monotonic clock, in milliseconds.
    Until(u64),
    /// It has, and contact was lost.
    Lost,
}

impl Freshness {
    /// Why nothing can be said about zones; none when it can.
    pub(crate) fn error(self, now: Moment) -> Option<ExtendedError> {
        match self {
            Self::Never => Some(ExtendedError::NotReady),
            Self::Until(end_ms) if now.monotonic_ms < end_ms => None,
            Self::Until(_) | Self::Lost => Some(ExtendedError::InvalidData),
        }
    }
}

/// All that an answer depends on beside the request.
#[derive(Debug, Clone)]
pub struct State {
    /// The zones.
    pub zones: Zones,
    /// Whether they may be spoken of.
    pub freshness: Freshness,
    /// What the operator decides.
    pub settings: Settings,
}

/// When a request came, by the two clocks that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970: what other servers and clients agree on, for cookies.
    pub unix_seconds: u64,
    /// Milliseconds of a clock that nobody sets, for freshness and the rate limit.
    pub monotonic_ms: u64,
}

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams, from addresses that may be forged.
    Udp,
    /// A connection.
    Tcp,
    /// A connection that nobody reads on its way.
    Tls {
        /// Whether both sides have said that they speak DNS over it (ALPN, "dot"), without which
        /// there are no transfers (RFC 9103 7.1).
        dot: bool,
    },
    /// The same, with a stream for each request (RFC 9250), by a library that writes the messages
    /// anew: nothing that is signed, and no transfers.
    Quic,
}

/// How and when a request came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// What carried it.
    pub transport: Transport,
    /// Where it came from.
    pub client: SocketAddr,
    /// When.
    pub now: Moment,
}

/// What to do about a request.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Send this message.
    Send(Vec<u8>),
    /// Send nothing.
    Silence,
    /// Send all messages of this, one after the other.
    Stream(Stream),
}

/// What is said, before it is octets.
enum Plan<'a> {
    /// About zones, or that nothing is said about them.
    Reply(Reply<'a>),
    /// Who the server is.
    Identity(&'a Asked<'a>, &'a Identity),
}

/// What is done.
enum Decision<'a> {
    Say(Plan<'a>),
    /// A zone is sent, or what has changed in it.
    Transfer(Transfer<'a>),
}

/// A transfer that the client may have.
struct Transfer<'a> {
    zone: &'a Arc<Tree>,
    form: Form,
    question: &'a [u8],
    /// The SOA: what is said over UDP when the rest does not fit (RFC 1995 2).
    soa: Plan<'a>,
}

/// What a thread keeps for itself while it answers.
#[derive(Debug, Default)]
pub struct Local<'a> {
    /// For UDP only; without one nothing is limited.
    pub limiter: Option<&'a mut Limiter>,
    /// Without it each signature is made anew.
    pub signatures: Option<&'a mut SignatureCache>,
}

/// Answers a request.
pub fn respond(state: &State, local: Local<'_>, arrival: &Arrival, octets: &[u8]) -> Outcome {
    // Nobody listens there: such an address is forged.
    if arrival.client.port() == 0 {
        return Outcome::Silence;
    }
    let Some(request) = Request::read(octets) else {
        return Outcome::Silence;
    };
    let now = arrival.now.unix_seconds;
    let (mut decision, signing) = if arrival.transport == Transport::Quic && request.tsig.is_some()
    {
        // A signature holds over the octets that were written here, and those are not sent; without
        // one nothing is said to who asks for one, whether it signs rightly or not.
        (
            error(Rcode::Refused, Some(ExtendedError::NotSupported)),
            None,
        )
    } else {
        match check(&state.settings.keys, octets, &request, now) {
            Checked::Refused(rcode, signing) => (error(rcode, None), signing),
            Checked::Unsigned => (decide(state, arrival, &request, None), None),
            Checked::Signed(signer) => {
                let decision = decide(state, arrival, &request, Some(signer.key().name()));
                (decision, Some(Signing::Signed(signer)))
            }
        }
    };
    // Before the limit, which holds no SERVFAIL back.
    let wanted = wanted(&request);
    decision.refuse_unsigned(wanted);
    let responding = Responding {
        state,
        arrival,
        request: &request,
        signing,
    };
    if let Decision::Transfer(transfer) = &decision
        && arrival.transport != Transport::Udp
    {
        return Outcome::Stream(responding.stream(transfer));
    }
    let (Decision::Say(plan) | Decision::Transfer(Transfer { soa: plan, .. })) = &decision;
    let limiter = local.limiter;
    let limiter = limiter.filter(|_| arrival.transport == Transport::Udp);
    match limiter.map_or(Verdict::Send, |limiter| responding.count(plan, limiter)) {
        Verdict::Send => {
            // Not before: a signature costs a hundred times what the rest of a reply does.
            let proving = decision.prove(wanted, local.signatures);
            Outcome::Send(responding.send(&decision, proving))
        }
        Verdict::Slip => Outcome::Send(responding.slip(plan)),
        Verdict::Drop => Outcome::Silence,
    }
}

/// What the client takes of DNSSEC.
fn wanted(request: &Request<'_>) -> Wanted {
    let edns = request.edns.unwrap_or_default();
    Wanted {
        signatures: edns.dnssec_ok,
        compact_ok: edns.compact_ok,
    }
}

impl<'a> Decision<'a> {
    /// Refuses what could not be believed.
    fn refuse_unsigned(&mut self, wanted: Wanted) {
        if let Self::Say(Plan::Reply(reply)) = self {
            refuse_unsigned(reply, wanted);
        }
    }

    /// Adds what the client needs to believe it; gives what signs the rest, if it is to be signed.
    fn prove<'c>(
        &mut self,
        wanted: Wanted,
        cache: Option<&'c mut SignatureCache>,
    ) -> Option<Proving<'a, 'c>> {
        let (Self::Say(plan) | Self::Transfer(Transfer { soa: plan, .. })) = self;
        match plan {
            Plan::Reply(reply) => prove_answer(reply, wanted, cache),
            Plan::Identity(..) => None,
        }
    }
}

/// Octets that the reply can have.
fn limit(state: &State, arrival: &Arrival, request: &Request<'_>) -> usize {
    match (arrival.transport, request.edns) {
        (Transport::Tcp | Transport::Tls { .. } | Transport::Quic, _) => TCP_OCTETS_MAX,
        (Transport::Udp, None) => PLAIN_UDP_OCTETS,
        // RFC 6891 6.2.3: less than 512 is 512.
        (Transport::Udp, Some(edns)) => {
            let octets = edns.udp_octets.min(udp_octets_max(state));
            usize::from(octets).max(PLAIN_UDP_OCTETS)
        }
    }
}

fn udp_octets_max(state: &State) -> u16 {
    state.settings.udp_octets_max.clamp(512, UDP_OCTETS_MAX)
}

fn error<'a>(rcode: Rcode, extended_error: Option<ExtendedError>) -> Decision<'a> {
    let mut reply = Reply::empty(rcode);
    reply.extended_error = extended_error;
    Decision::Say(Plan::Reply(reply))
}

/// What is said to a request that is signed with this key, or not at all.
fn decide<'a>(
    state: &'a State,
    arrival: &Arrival,
    request: &'a Request<'a>,
    key: Option<&Name>,
) -> Decision<'a> {
    if let Some(fault) = request.fault {
        return error(fault.rcode(), None);
    }
    let Some(asked) = &request.question else {
        // RFC 7873 5.4: the client wants a cookie only.
        return error(Rcode::NoError, None);
    };
    if asked.class == CLASS_CHAOS
        && let Some(identity) = identity(state, asked)
    {
        return Decision::Say(Plan::Identity(asked, identity));
    }
    if asked.class != CLASS_IN {
        return error(Rcode::Refused, Some(ExtendedError::NotAuthoritative));
    }
    if let Some(not_fresh) = state.freshness.error(arrival.now) {
        return error(Rcode::ServFail, Some(not_fresh));
    }
    if asked.rtype == Rtype::AXFR || asked.rtype == Rtype::IXFR {
        return transfer(state, arrival, request, (asked, key));
    }
    let question = Question {
        name: &asked.name,
        rtype: asked.rtype,
        class: asked.class,
    };
    let octets_max = limit(state, arrival, request);
    let mut reply = answer_within(&state.zones, &question, octets_max);
    let private = reply.zone.is_some_and(Tree::is_private);
    if private && !state.settings.transfers.allows(arrival.client.ip(), key) {
        return error(Rcode::Refused, Some(ExtendedError::Prohibited));
    }
    for records in &mut reply.answer {
        // Clients draw their ids, so that others cannot guess them (RFC 5452 9.2).
        records.draw(request.id);
    }
    Decision::Say(Plan::Reply(reply))
}

/// RFC 4892, and what BIND has always answered.
fn identity<'a>(state: &'a State, asked: &Asked<'_>) -> Option<&'a Identity> {
    let chaos = state.settings.chaos.as_ref()?;
    if asked.rtype != Rtype::TXT && asked.rtype != Rtype::ANY {
        return None;
    }
    match asked.name.to_lowercase().as_wire() {
        b"\x02id\x06server\0" | b"\x08hostname\x04bind\0" => Some(&chaos.id),
        b"\x07version\x06server\0" | b"\x07version\x04bind\0" => Some(&chaos.version),
        _ => None,
    }
}

fn transfer<'a>(
    state: &'a State,
    arrival: &Arrival,
    request: &Request<'_>,
    (asked, key): (&'a Asked<'a>, Option<&Name>),
) -> Decision<'a> {
    let incremental = asked.rtype == Rtype::IXFR;
    if incremental && request.serial.is_none() {
        // RFC 1995 3: the client says what it has.
        return error(Rcode::FormErr, None);
    }
    let Some(zone) = state.zones.get(&asked.name) else {
        // RFC 5936 2.2.1.
        return error(Rcode::NotAuth, Some(ExtendedError::NotAuthoritative));
    };
    if zone.is_closed() {
        return error(Rcode::ServFail, Some(ExtendedError::InvalidData));
    }
    if zone.lacks_keys() {
        // Without signatures nobody who checks would believe the copy.
        return error(Rcode::ServFail, Some(ExtendedError::NotReady));
    }
    let there_is = match arrival.transport {
        // RFC 5936 4.2.
        Transport::Udp => incremental,
        Transport::Tcp => true,
        // RFC 9103 7.1.
        Transport::Tls { dot } => dot,
        Transport::Quic => false,
    };
    if !there_is {
        return error(Rcode::Refused, Some(ExtendedError::NotSupported));
    }
    // RFC 5936 5. It holds for the SOA too, which anybody can ask for by its own name: who is not
    // allowed should hear so at once, and not when there is more to send.
    let client = arrival.client.ip();
    if !state.settings.transfers.allows(client, key) {
        return error(Rcode::Refused, Some(ExtendedError::Prohibited));
    }
    let mut reply = Reply::empty(Rcode::NoError);
    reply.authoritative = true;
    reply.zone = Some(zone);
    let soa = zone.set(APEX, Rtype::SOA).map(Records::stored);
    reply.answer = soa.into_iter().collect();
    Decision::Transfer(Transfer {
        zone,
        form: Form::since(zone, request.serial.filter(|_| incremental)),
        question: asked.wire,
        soa: Plan::Reply(reply),
    })
}

struct Responding<'a> {
    state: &'a State,
    arrival: &'a Arrival,
    request: &'a Request<'a>,
    signing: Option<Signing>,
}

impl Responding<'_> {
    /// Counts the reply, unless the client shows that it is where it says.
    fn count(&self, plan: &Plan<'_>, limiter: &mut Limiter) -> Verdict {
        if self.has_our_cookie() {
            return Verdict::Send;
        }
        let client = self.arrival.client.ip();
        let now_ms = self.arrival.now.monotonic_ms;
        let Some((kind, name)) = self.kind(plan) else {
            return Verdict::Send;
        };
        limiter.count(client, kind, name, now_ms)
    }

    /// What is counted. Where strangers can make up names without end, it is the name of the zone.
    /// SERVFAIL is not counted, be the server fenced or the zone closed: it is hardly larger than
    /// its question, and to withhold it would be the silence that hurts.
    fn kind<'a>(&'a self, plan: &'a Plan<'_>) -> Option<(Kind, &'a [u8])> {
        let Plan::Reply(reply) = plan else {
            return Some((Kind::Error, &[]));
        };
        let zone = reply.zone.map_or(&[][..], |zone| zone.origin().as_wire());
        let asked = self.request.question.as_ref();
        let asked = asked.map_or(&[][..], |asked| asked.name.as_wire());
        let first = reply.authority.first();
        match reply.rcode {
            Rcode::NxDomain => Some((Kind::NxDomain, zone)),
            Rcode::NoError if reply.synthesized => Some((Kind::Answer, zone)),
            Rcode::NoError if !reply.answer.is_empty() => Some((Kind::Answer, asked)),
            Rcode::NoError if reply.authoritative => Some((Kind::NoData, zone)),
            Rcode::NoError => match first {
                Some(cut) => Some((Kind::Referral, &cut.owner)),
                None => Some((Kind::Error, &[])),
            },
            Rcode::ServFail => None,
            Rcode::FormErr
            | Rcode::NotImp
            | Rcode::Refused
            | Rcode::YxDomain
            | Rcode::NotAuth
            | Rcode::BadVers
            | Rcode::BadCookie => Some((Kind::Error, &[])),
        }
    }

    fn has_our_cookie(&self) -> bool {
        let cookie = self.request.edns.and_then(|edns| edns.cookie);
        let secrets = self.state.settings.cookies.as_ref();
        let Some((cookie, secrets)) = cookie.zip(secrets) else {
            return false;
        };
        let client = self.arrival.client.ip();
        secrets.is_ours(cookie, client, self.arrival.now.unix_seconds)
    }

    fn limit(&self) -> usize {
        limit(self.state, self.arrival, self.request)
    }

    fn stream(&self, transfer: &Transfer<'_>) -> Stream {
        let envelope = Envelope {
            id: self.request.id,
            recursion_desired: self.request.recursion_desired,
            question: transfer.question.to_vec(),
            opt: self.request.edns.map(|edns| self.opt(&edns, &transfer.soa)),
            signer: match &self.signing {
                Some(Signing::Signed(signer)) => Some(signer.clone()),
                Some(Signing::Error { .. }) | None => None,
            },
        };
        Stream::new(Arc::clone(transfer.zone), transfer.form.clone(), envelope)
    }

    /// What goes into one message. Over UDP a transfer is whole, or the SOA alone, so that the
    /// client comes again over TCP (RFC 1995 2).
    fn send(&self, decision: &Decision<'_>, proving: Option<Proving<'_, '_>>) -> Vec<u8> {
        match decision {
            Decision::Say(plan) => self.write(plan, false, proving),
            Decision::Transfer(transfer) => {
                let whole = self
                    .stream(transfer)
                    .datagram(self.limit(), self.arrival.now);
                whole.unwrap_or_else(|| self.write(&transfer.soa, false, proving))
            }
        }
    }

    /// What is sent over the rate limit: no records, and where there are some the way to get them.
    /// That is a cookie for who has cookies (RFC 7873 5.2.3, 5.2.4), else TC, which leads to TCP.
    fn slip(&self, plan: &Plan<'_>) -> Vec<u8> {
        let cookie = self.request.edns.and_then(|edns| self.cookie(&edns));
        if cookie.is_some() && has_records(plan) {
            let reply = Reply::empty(Rcode::BadCookie);
            return self.write(&Plan::Reply(reply), false, None);
        }
        self.write(plan, true, None)
    }

    /// The message; over the rate limit without its records, and truncated when it has some.
    fn write(
        &self,
        plan: &Plan<'_>,
        over_limit: bool,
        proving: Option<Proving<'_, '_>>,
    ) -> Vec<u8> {
        let question = self.request.question.as_ref().map(|asked| asked.wire);
        let question_octets = question.map_or(0, <[u8]>::len);
        let opt = self.request.edns.map(|edns| self.opt(&edns, plan));
        let opt_octets = opt.as_ref().map_or(0, Opt::octets);
        let signed_octets = self.signing.as_ref().map_or(0, Signing::octets);
        // What is in every reply fits into 512 octets, but for a signature with a long name: the
        // request has that too, so that its way takes such a reply, and it is hardly larger.
        let least = HEADER_OCTETS + question_octets + opt_octets + signed_octets;
        let limit = Opt::limit(opt.as_ref(), self.limit());
        let mut writer = Writer::new(limit.max(least));
        if let Some(question) = question {
            writer.question(question).expect("there is room");
        }
        let reserved = writer.reserve(opt_octets + signed_octets);
        reserved.expect("there is room");
        let truncated = over_limit && has_records(plan) || write_plan(&mut writer, plan).is_err();
        if truncated {
            writer.clear(question_octets);
        }
        let glue_missing = !truncated && write_additional(&mut writer, plan, proving);
        writer.release(opt_octets + signed_octets);
        if let Some(opt) = &opt {
            opt.write(&mut writer, signed_octets);
        }
        let mut head = self.head(plan, truncated || glue_missing);
        if truncated && self.signing.is_some() {
            // RFC 8945 5.3: nothing is said but that there is more.
            head[3] = Rcode::NoError.code();
        }
        let mut message = writer.finish(head);
        if let Some(mut signing) = self.signing.clone() {
            signing.append(&mut message, self.arrival.now.unix_seconds);
        }
        message
    }

    /// The id and the flags of the reply.
    fn head(&self, plan: &Plan<'_>, truncated: bool) -> [u8; 4] {
        let [i0, i1] = self.request.id.to_be_bytes();
        let mut flags = 0x80 | self.request.opcode << 3;
        flags |= u8::from(truncated) << 1 | u8::from(is_authoritative(plan)) << 2;
        // What it means in other kinds of messages nobody knows.
        flags |= u8::from(self.request.recursion_desired && self.request.opcode == OPCODE_QUERY);
        // Neither recursion nor authentic data are offered; of CD RFC 4035 3.1.6 says to clear it.
        [i0, i1, flags, rcode(plan).code() & 15]
    }

    /// The OPT record (RFC 6891 6.1.3).
    fn opt(&self, edns: &Edns<'_>, plan: &Plan<'_>) -> Opt {
        // RFC 3225 3: DO is copied; RFC 9824 5.1: CO too. All others are zero (RFC 6891 6.1.4).
        let compact_ok = edns.dnssec_ok && edns.compact_ok;
        let flags = u8::from(edns.dnssec_ok) << 7 | u8::from(compact_ok) << 6;
        let mut opt = Opt {
            udp_octets: udp_octets_max(self.state),
            ttl: u32::from_be_bytes([rcode(plan).code() >> 4, 0, flags, 0]),
            options: Vec::new(),
            padded: self.is_padded(edns),
        };
        if let Plan::Reply(reply) = plan {
            opt.extended_error(reply.extended_error);
        }
        if let Some(nsid) = self.state.settings.nsid.as_ref().filter(|_| edns.nsid) {
            opt.push(option::NSID, nsid.octets());
        }
        if let Some(cookie) = self.cookie(edns) {
            opt.push(option::COOKIE, &cookie);
        }
        if let Some(zone) = zone(plan) {
            let soa = zone.soa();
            if edns.zone_version {
                // RFC 9660 2.1 and 4: labels of the zone, the type SOA-SERIAL, and that.
                let labels = u8::try_from(zone.origin().label_count()).expect("at most 127");
                let [s0, s1, s2, s3] = soa.serial.to_be_bytes();
                opt.push(option::ZONE_VERSION, &[labels, 0, s0, s1, s2, s3]);
            }
            let asked = self.request.question.as_ref();
            let about_zone = asked.is_some_and(|asked| {
                // RFC 7314 3.1: we are the primary.
                matches!(asked.rtype, Rtype::SOA | Rtype::AXFR | Rtype::IXFR)
                    && asked.name == *zone.origin()
            });
            if edns.expire && about_zone {
                opt.push(option::EXPIRE, &soa.expire.to_be_bytes());
            }
        }
        opt
    }

    /// RFC 7830 4 and 6: a request that is padded gets a padded reply, where sizes are all that
    /// others see.
    fn is_padded(&self, edns: &Edns<'_>) -> bool {
        match self.arrival.transport {
            Transport::Tls { .. } | Transport::Quic => edns.padding,
            Transport::Udp | Transport::Tcp => false,
        }
    }

    fn cookie(&self, edns: &Edns<'_>) -> Option<[u8; 24]> {
        let secrets = self.state.settings.cookies.as_ref()?;
        let client_cookie = *edns.cookie?.first_chunk::<CLIENT_OCTETS>()?;
        let client = self.arrival.client.ip();
        Some(secrets.make(client_cookie, client, self.arrival.now.unix_seconds))
    }
}

fn rcode(plan: &Plan<'_>) -> Rcode {
    match plan {
        Plan::Reply(reply) => reply.rcode,
        Plan::Identity(..) => Rcode::NoError,
    }
}

fn is_authoritative(plan: &Plan<'_>) -> bool {
    match plan {
        Plan::Reply(reply) => reply.authoritative,
        Plan::Identity(..) => true,
    }
}

/// The zone that the reply comes from, also when it refers to another (RFC 9660 3.2).
fn zone<'a>(plan: &Plan<'a>) -> Option<&'a Tree> {
    match plan {
        Plan::Reply(reply) => reply.zone,
        Plan::Identity(..) => None,
    }
}

fn has_records(plan: &Plan<'_>) -> bool {
    match plan {
        Plan::Reply(reply) => !reply.answer.is_empty() || !reply.authority.is_empty(),
        Plan::Identity(..) => true,
    }
}

/// What a reply cannot do without: the answer, and the authority section, which has nothing here
/// but a delegation or the SOA of an answer about nothing.
fn write_plan(writer: &mut Writer, plan: &Plan<'_>) -> Result<(), Full> {
    match plan {
        Plan::Reply(reply) => {
            for set in &reply.answer {
                writer.set(Section::Answer, set)?;
            }
            for set in &reply.authority {
                writer.set(Section::Authority, set)?;
            }
            Ok(())
        }
        Plan::Identity(asked, identity) => {
            let length = u8::try_from(identity.octets().len()).map_err(|_| Full)?;
            let data = [&[length], identity.octets()].concat();
            let meta = (Rtype::TXT, CLASS_CHAOS, 0);
            writer.record(Section::Answer, asked.name.as_wire(), meta, &data)
        }
    }
}

/// Writes what fits of the additional section; true when glue that is needed does not
/// (RFC 9471 3.1).
fn write_additional(
    writer: &mut Writer,
    plan: &Plan<'_>,
    mut proving: Option<Proving<'_, '_>>,
) -> bool {
    let Plan::Reply(reply) = plan else {
        return false;
    };
    let mut missing = false;
    for set in &reply.additional {
        let mut written = Err(Full);
        if let Some(signing) = &mut proving {
            let mut signed = set.clone();
            signing.sign_additional(&mut signed);
            written = writer.set(Section::Additional, &signed);
        }
        if written.is_err() {
            // RFC 4035 3.1.1: here signatures may be left out. There is no room for those of the
            // next set either, so that none is made in vain.
            proving = None;
            written = writer.set(Section::Additional, set);
        }
        missing |= written.is_err() && set.needed;
    }
    missing
}
