#!/usr/bin/env python3
"""Signs requests and checks signed replies with dnspython, for the tests of cfgdns-core.

  dnspython.py requests         prints requests.txt: signed requests, at a fixed time
  dnspython.py notify FILE      reads signed messages that tell of a change, checks them, and prints
                                replies to them: notify-replies.txt
  dnspython.py check FILE       reads replies that the tests recorded, checks their signatures, and
                                prints what they say: transcript.txt

Both sides of an exchange are so read and written by a program that nobody here wrote.
"""

import sys
import time

import dns.edns
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig

NOW = 1559731985
time.time = lambda: NOW

SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def query(name="example.", rtype="SOA", **options):
    message = dns.message.make_query(name, rtype, **options)
    message.flags = 0
    return message


def incremental(serial):
    message = query(rtype="IXFR")
    text = f"example. 0 IN SOA . . {serial} 0 0 0 0"
    name, ttl, rclass, rtype, data = text.split(" ", 4)
    message.authority.append(dns.rrset.from_text(name, int(ttl), rclass, rtype, data))
    return message


def notify():
    message = query()
    message.set_opcode(dns.opcode.NOTIFY)
    return message


def cases():
    """Label, key, algorithm, message, seconds that the client's clock is ahead."""
    for algorithm in ("sha1", "sha224", "sha256", "sha384", "sha512"):
        yield algorithm, f"{algorithm}.key.", f"hmac-{algorithm}", query(), 0
    sha256 = ("sha256.key.", "hmac-sha256")
    # The name of this key is compressed: it ends as the question does.
    yield "compressed", "tsig.example.", "hmac-sha256", query(), 0
    yield "capitals", "SHA256.Key.", "hmac-sha256", query(), 0
    yield "edns", *sha256, query(use_edns=0, payload=1232), 0
    yield "nxdomain", *sha256, query("no.example.", "A"), 0
    yield "large", *sha256, query("big.example.", "TXT"), 0
    yield "refused", *sha256, query("example.org.", "A"), 0
    yield "notify", *sha256, notify(), 0
    yield "axfr", *sha256, query(rtype="AXFR"), 0
    yield "ixfr", *sha256, incremental(7), 0
    yield "late", *sha256, query(), -301
    yield "early", *sha256, query(), 301
    yield "in-time", *sha256, query(), -300
    yield "unknown-key", "other.key.", "hmac-sha256", query(), 0
    yield "unknown-algorithm", "sha256.key.", "hmac-sha256-128", query(), 0
    yield "other-algorithm", "sha256.key.", "hmac-sha512", query(), 0


def requests():
    global NOW
    print("# Made by `dnspython.py requests`: label, key, algorithm, secret, request.")
    for label, name, algorithm, message, ahead in cases():
        key = dns.tsig.Key(name, SECRET, algorithm)
        message.id = 0x1234
        message.use_tsig({key.name: key}, key.name)
        NOW += ahead
        wire = message.to_wire()
        NOW -= ahead
        print(label, name, algorithm, SECRET, wire.hex())


def answer_notify(path):
    print("# Made by `dnspython.py notify notify.txt`: signed replies to the messages there.")
    key = dns.tsig.Key("sha256.key.", SECRET, "hmac-sha256")
    for line in open(path):
        message = dns.message.from_wire(bytes.fromhex(line), keyring={key.name: key})
        assert message.opcode() == dns.opcode.NOTIFY and message.had_tsig
        assert message.answer[0].rdtype == dns.rdatatype.SOA
        reply = dns.message.make_response(message)
        reply.set_opcode(dns.opcode.NOTIFY)
        print(reply.to_wire().hex())


def validate(wire, key, owner, rdata, now, request_mac, start, ctx=None, multi=False):
    """As dnspython's, which does not look at the MAC of a reply that says an error."""
    if rdata.error == dns.rcode.BADTIME:
        count = int.from_bytes(wire[10:12], "big") - 1
        message = wire[:10] + count.to_bytes(2, "big") + wire[12:start]
        dns.tsig._digest(message, key, rdata, None, request_mac).verify(rdata.mac)
        print("  its MAC is right, the server's time is", int.from_bytes(rdata.other, "big"))
    return known_validate(wire, key, owner, rdata, now, request_mac, start, ctx, multi)


known_validate = dns.tsig.validate
dns.tsig.validate = validate


def check(path):
    global NOW
    ahead = {case[0]: case[4] for case in cases()}
    known = {}
    for line in open("requests.txt"):
        if not line.startswith("#"):
            label, name, algorithm, secret, request = line.split()
            known[label] = (dns.tsig.Key(name, secret, algorithm), bytes.fromhex(request))
    exchanges = {}
    for line in open(path):
        label, reply = line.split()
        exchanges.setdefault(label, []).append(bytes.fromhex(reply))
    for label, replies in exchanges.items():
        key, request = known[label]
        # The client's clock, which may be another than the server's.
        NOW += ahead[label]
        asked = dns.message.from_wire(request, keyring={key.name: key})
        context = None
        print(f"{label}:")
        for wire in replies:
            try:
                reply = dns.message.from_wire(
                    wire,
                    keyring={key.name: key},
                    request_mac=asked.mac,
                    tsig_ctx=context,
                    multi=len(replies) > 1,
                    xfr=True,
                    one_rr_per_rrset=True,
                )
            except dns.exception.DNSException as error:
                print(f"  {type(error).__name__}")
                continue
            context = reply.tsig_ctx
            signed = "signed, and right" if reply.had_tsig and reply.mac else "unsigned"
            flags = dns.flags.to_text(reply.flags)
            print(f"  {signed}: {dns.rcode.to_text(reply.rcode())} {flags},", end=" ")
            print(f"{sum(map(len, reply.answer))} records, fudge {reply.tsig[0].fudge}")
        NOW -= ahead[label]


if len(sys.argv) == 2 and sys.argv[1] == "requests":
    requests()
elif len(sys.argv) == 3 and sys.argv[1] == "notify":
    answer_notify(sys.argv[2])
elif len(sys.argv) == 3 and sys.argv[1] == "check":
    check(sys.argv[2])
else:
    sys.exit(__doc__)
