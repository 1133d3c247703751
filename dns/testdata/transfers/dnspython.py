#!/usr/bin/env python3
"""Applies recorded transfers of cfgdns-core with dnspython, and says what came out.

  dnspython.py messages.txt      prints transcript.txt

Each line of the file is the kind of transfer, the serial that a secondary has, and a message. For
each serial the zone is made from its whole transfer, then what is sent since then is applied to it:
the outcome must be the zone of the last serial.
"""

import sys

import dns.message
import dns.name
import dns.rdatatype
import dns.versioned
import dns.xfr

ORIGIN = "example."


def transfer(zone, rtype, serial, messages):
    """Reads a transfer as a secondary does; says how many messages and records it had."""
    records = 0
    with dns.xfr.Inbound(zone, rtype, serial=serial) as inbound:
        for number, wire in enumerate(messages, 1):
            message = dns.message.from_wire(
                wire, xfr=True, origin=zone.origin, one_rr_per_rrset=True
            )
            records += len(message.answer)
            done = inbound.process_message(message)
            assert done == (number == len(messages)), "it ends with its last message"
    return f"{len(messages)} messages, {records} records"


def content(zone):
    """Every record as text, names in the case that they came in."""
    with zone.reader() as reader:
        return {
            f"{name} {rdataset.ttl} {dns.rdatatype.to_text(rdataset.rdtype)} {data}"
            for name, rdataset in reader
            for data in rdataset
        }


def serial_of(zone):
    with zone.reader() as reader:
        return reader.get(dns.name.empty, "SOA")[0].serial


wires = {}
for line in open(sys.argv[1]):
    kind, serial, message = line.split()
    wires.setdefault((kind, int(serial)), []).append(bytes.fromhex(message))
serials = sorted({serial for _, serial in wires})
last = dns.versioned.Zone(ORIGIN)
transfer(last, dns.rdatatype.AXFR, None, wires["axfr", serials[-1]])
for serial in serials:
    zone = dns.versioned.Zone(ORIGIN)
    whole = transfer(zone, dns.rdatatype.AXFR, None, wires["axfr", serial])
    assert serial_of(zone) == serial
    print(f"{serial}: whole {whole}, {len(content(zone))} in the zone")
    steps = transfer(zone, dns.rdatatype.IXFR, serial, wires["ixfr", serial])
    assert content(zone) == content(last) and serial_of(zone) == serials[-1]
    print(f"{serial}: since then {steps}, then it is {serials[-1]} with {len(content(zone))}")
