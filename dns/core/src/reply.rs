//! What a reply says, section by section; `encode` makes a message of it.

use std::borrow::Cow;

use cfgdns_zone::{Name, Rtype};

use crate::tree::{NodeId, SetView, StoredData, Tree};

/// The outcome of a question (RFC 1035 4.1.1, RFC 6672 2.2, RFC 6891 9, RFC 8945 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// There is an answer, or the name exists without the type.
    NoError,
    /// The question cannot be.
    FormErr,
    /// This server cannot say, for now.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// The kind of question is not implemented.
    NotImp,
    /// Not a zone of ours.
    Refused,
    /// The name that a DNAME leads to would be too long.
    YxDomain,
    /// No authority: over a zone that is to be transferred, or whoever signed the request has none.
    NotAuth,
    /// A version of EDNS that does not exist yet.
    BadVers,
    /// Ask again with the cookie that comes with this (RFC 7873 8).
    BadCookie,
}

impl Rcode {
    /// The number on the wire; from 16 on its upper bits are in the OPT record (RFC 6891 6.1.3).
    pub fn code(self) -> u8 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::YxDomain => 6,
            Self::NotAuth => 9,
            Self::BadVers => 16,
            Self::BadCookie => 23,
        }
    }
}

/// Why, for whoever can read it (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendedError {
    /// The server has not been fresh since it started (RFC 8914 4.15).
    NotReady,
    /// The client is not allowed to have it (RFC 8914 4.19).
    Prohibited,
    /// We have no authority over the name (RFC 8914 4.21).
    NotAuthoritative,
    /// The kind of question is not supported (RFC 8914 4.22).
    NotSupported,
    /// What the server has may be out of date (RFC 8914 4.25).
    InvalidData,
    /// No data can have the type that was asked for (RFC 9824 3.5).
    InvalidQueryType,
}

impl ExtendedError {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::NotReady => 14,
            Self::Prohibited => 18,
            Self::NotAuthoritative => 20,
            Self::NotSupported => 21,
            Self::InvalidData => 24,
            Self::InvalidQueryType => 30,
        }
    }
}

/// The data of a set.
#[derive(Debug, Clone)]
pub enum Data<'a> {
    /// As the zone has it.
    Stored(StoredData<'a>),
    /// The name of a CNAME that a DNAME makes (RFC 6672 3.1).
    Made(Name),
    /// The data of an NSEC record that is made for the question (RFC 9824 3).
    Denial(Vec<u8>),
}

/// A set of records in a section.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    /// Its name in wire form: that of the zone, or of the question where a wildcard answers.
    pub owner: Cow<'a, [u8]>,
    /// Its type.
    pub rtype: Rtype,
    /// Its TTL.
    pub ttl: u32,
    /// The TTL that the zone gives it, which is what is signed (RFC 4034 3.1.4).
    pub zone_ttl: u32,
    /// Its records.
    pub data: Data<'a>,
    /// The data of its RRSIG records, which are sent with it.
    pub signatures: Vec<Vec<u8>>,
    /// Whether a reply without it must be marked as truncated: in the additional section only the
    /// glue of name servers that are below the delegation (RFC 9471 3.1).
    pub needed: bool,
    /// How often each record comes first, beside the others; empty where that is always the first.
    pub weights: &'a [u16],
    /// The record that comes first.
    pub first: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn stored(set: SetView<'a>) -> Self {
        Self {
            owner: Cow::Borrowed(set.owner),
            rtype: set.rtype,
            ttl: set.ttl,
            zone_ttl: set.ttl,
            data: Data::Stored(set.data),
            signatures: Vec::new(),
            needed: true,
            weights: set.weights,
            first: 0,
        }
    }

    /// The data of its records in wire form, uncompressed, in the order in which they are sent.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        let (made, stored) = match &self.data {
            Data::Stored(stored) => (None, stored.clone()),
            Data::Made(name) => (Some(name.as_wire()), StoredData::default()),
            Data::Denial(data) => (Some(&data[..]), StoredData::default()),
        };
        let last = stored.clone().take(self.first);
        made.into_iter().chain(stored.skip(self.first)).chain(last)
    }

    /// Draws the record that comes first; each as often as its weight says, over all numbers.
    pub fn draw(&mut self, number: u16) {
        let total: u32 = self.weights.iter().copied().map(u32::from).sum();
        // Below the total, as the number is below 2^16.
        let mut point = (u64::from(number) * u64::from(total)) >> 16;
        for (index, weight) in self.weights.iter().copied().map(u64::from).enumerate() {
            if point < weight {
                self.first = index;
                return;
            }
            point -= weight;
        }
    }

    /// Whether it is the set of this name and type.
    pub(crate) fn is(&self, owner: &[u8], rtype: Rtype) -> bool {
        self.rtype == rtype && self.owner.eq_ignore_ascii_case(owner)
    }
}

/// What a reply has no records for, so that it can be proved (RFC 4035 3.1.3).
#[derive(Debug, Clone)]
pub(crate) enum Unproved<'a> {
    /// The name does not exist; this type was asked for.
    Name(Cow<'a, Name>, Rtype),
    /// The name exists without the type: it is a node's, or one that a wildcard makes.
    Type(NodeId, Option<Cow<'a, Name>>),
    /// The name is delegated, with a DS or without.
    Delegation(NodeId),
    /// What was asked for are the proofs of a name themselves: NSEC, RRSIG.
    Itself(NodeId, Option<Cow<'a, Name>>, Rtype),
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply<'a> {
    /// The outcome.
    pub rcode: Rcode,
    /// Whether we have authority over the first name of the answer.
    pub authoritative: bool,
    /// What was asked for, after the aliases that lead there.
    pub answer: Vec<Records<'a>>,
    /// A delegation, or the SOA of an answer about nothing.
    pub authority: Vec<Records<'a>>,
    /// Addresses of what the others name.
    pub additional: Vec<Records<'a>>,
    /// Why.
    pub extended_error: Option<ExtendedError>,
    /// The zone that was asked.
    pub zone: Option<&'a Tree>,
    /// Whether a wildcard or a DNAME made a name of the answer: strangers choose such names.
    pub synthesized: bool,
    /// What is to be proved, for who asks for it.
    pub(crate) unproved: Option<Unproved<'a>>,
}

impl Reply<'_> {
    /// A reply without records.
    pub(crate) fn empty(rcode: Rcode) -> Self {
        Self {
            rcode,
            authoritative: false,
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            extended_error: None,
            zone: None,
            synthesized: false,
            unproved: None,
        }
    }
}
