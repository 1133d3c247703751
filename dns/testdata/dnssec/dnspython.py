#!/usr/bin/python3
"""Validates the replies of replies.txt, from standard input, with dnspython.

Each set of the zone must have a valid signature. What is not there must be denied by an NSEC record
of that very name (RFC 9824), and a delegation must say whether the zone below is signed. Ends with
the number of replies and signatures, or with the first thing that is wrong.
"""

import sys

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype as types
import dns.rrset

COMPACT_OK = 0x4000
NXNAME = 128


def wrong(reply, what):
    sys.exit(f"{what}:\n{reply}")


def listed(nsec):
    """The types that an NSEC record lists."""
    return {
        window * 256 + octet * 8 + bit
        for window, bits in nsec.windows
        for octet, value in enumerate(bits)
        for bit in range(8)
        if value & (0x80 >> bit)
    }


def signed(reply, section, keys, now, unsigned):
    """Validates the sets of a section; how many have a signature."""
    count = 0
    for rrset in section:
        if rrset.rdtype == types.RRSIG:
            continue
        found = [
            other
            for other in section
            if other.name == rrset.name
            and other.rdtype == types.RRSIG
            and other.covers == rrset.rdtype
        ]
        if unsigned(rrset):
            if found:
                wrong(reply, f"a signature of {rrset}")
            continue
        if len(found) != 1:
            wrong(reply, f"no signature of {rrset}")
        dns.dnssec.validate(rrset, found[0], keys, None, now)
        for record in found[0]:
            # Nothing is left to prove of a wildcard.
            labels = len(rrset.name.labels) - 1 - (rrset.name.labels[0] == b"*")
            if record.labels != labels:
                wrong(reply, f"{rrset.name} was made of a wildcard")
        count += 1
    return count


def check_denial(request, reply, referral):
    question = request.question[0]
    name, rdtype = question.name, question.rdtype
    for rrset in reply.answer:
        if rrset.rdtype == types.CNAME and rrset.name == name and rdtype != types.CNAME:
            name = rrset[0].target
    for _ in reply.answer:
        for rrset in reply.answer:
            if rrset.rdtype == types.CNAME and rrset.name == name and rdtype != types.CNAME:
                name = rrset[0].target
    nsecs = [rrset for rrset in reply.authority if rrset.rdtype == types.NSEC]
    soa = any(rrset.rdtype == types.SOA for rrset in reply.authority)
    has_ds = any(rrset.rdtype == types.DS for rrset in reply.authority)
    if referral and has_ds or not (referral or soa):
        if nsecs:
            wrong(reply, "a denial of what is there")
        return
    if len(nsecs) != 1 or len(nsecs[0]) != 1:
        wrong(reply, "not one NSEC")
    owner, nsec = nsecs[0].name, nsecs[0][0]
    there = listed(nsec)
    if not owner < nsec.next or not {types.RRSIG, types.NSEC} <= there:
        wrong(reply, "not an NSEC that says something of its name")
    if referral or rdtype == types.DS:
        if not name.is_subdomain(owner) or there != {types.NS, types.RRSIG, types.NSEC}:
            wrong(reply, "it does not say that the delegation has no DS")
        if nsec.next.is_subdomain(owner):
            wrong(reply, "it denies names of the delegated zone")
        return
    if owner != name or nsec.next != dns.name.Name((b"\0",) + name.labels):
        wrong(reply, f"it says nothing of {name} alone")
    if rdtype in there or types.CNAME in there:
        wrong(reply, "the type that was asked for is there")
    absent = there == {types.RRSIG, types.NSEC, NXNAME}
    if (NXNAME in there) != absent:
        wrong(reply, "a name that does not exist has types")
    compact_ok = bool(request.ednsflags & COMPACT_OK)
    expected = dns.rcode.NXDOMAIN if absent and compact_ok else dns.rcode.NOERROR
    if reply.rcode() != expected:
        wrong(reply, f"the outcome is not {dns.rcode.to_text(expected)}")


def check(request, reply, keys, now):
    if not request.is_response(reply) or reply.flags & (dns.flags.AD | dns.flags.TC):
        wrong(reply, "no whole reply to its request")
    if not reply.ednsflags & dns.flags.DO or reply.ednsflags != request.ednsflags:
        wrong(reply, "DO and CO are not copied")
    referral = any(rrset.rdtype == types.NS for rrset in reply.authority)
    dnames = [rrset for rrset in reply.answer if rrset.rdtype == types.DNAME]

    def made(rrset):
        below = (d for d in dnames if rrset.name != d.name and rrset.name.is_subdomain(d.name))
        return rrset.rdtype == types.CNAME and any(below)

    count = signed(reply, reply.answer, keys, now, made)
    count += signed(reply, reply.authority, keys, now, lambda rrset: rrset.rdtype == types.NS)
    glue = {r.target for rrset in reply.authority if rrset.rdtype == types.NS for r in rrset}
    count += signed(reply, reply.additional, keys, now, lambda rrset: rrset.name in glue)
    check_denial(request, reply, referral)
    return count


def main():
    now = None
    keys = {}
    replies = signatures = 0
    for line in sys.stdin:
        first, rest = line.strip().split(" ", 1)
        if first == "now":
            now = int(rest)
        elif first == "key":
            zone, text = rest.split(" ", 1)
            zone = dns.name.from_text(zone)
            key = dns.rdata.from_text(dns.rdataclass.IN, types.DNSKEY, text)
            rrset = keys.setdefault(zone, dns.rrset.RRset(zone, dns.rdataclass.IN, types.DNSKEY))
            rrset.add(key)
        else:
            request = dns.message.from_wire(bytes.fromhex(first))
            reply = dns.message.from_wire(bytes.fromhex(rest))
            signatures += check(request, reply, keys, now)
            replies += 1
    if not replies or not signatures:
        sys.exit("nothing to check")
    print(f"{replies} replies, {signatures} signatures")


main()
