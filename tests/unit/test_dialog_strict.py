"""Bytes of strangers: refused by name, and before they cost anything."""

from __future__ import annotations

import base64
import tracemalloc

import pytest
from asn1crypto import x509 as asn1

from dialog_authority import Authority
from dialog_keys import ec_key
from dialog_world import START, World
from hsm_msl.dialog.encoding import encode
from hsm_msl.dialog.errors import CertificateRefusedError, PacketError
from hsm_msl.dialog.headers import Authentication, parse_pair, protected_bytes, sign1
from hsm_msl.dialog.issuers import IssuerTrust, Use, build_chain
from hsm_msl.dialog.packet import parse, parse_core

ROOT = Authority("root", START)
LEAF = ROOT.issue("urn:test:a", ec_key("leaf"), "digital_signature")


def test_a_fragment_is_an_array() -> None:
    world = World()
    world.a.send(world.a.begin(world.b), 0, b"x")
    core = parse(world.outgoing(world.a)[0]).core_bytes
    assert b"\x05\x82\x00\x01" in core
    for other in (b"\x05\x42\x00\x01", b"\x05\xa2\x00\x00\x01\x01", b"\x05\x62\x00\x01"):
        with pytest.raises(PacketError):
            parse_core(core.replace(b"\x05\x82\x00\x01", other))


def test_signed_bytes_are_no_text() -> None:
    fields: dict[int, object] = {1: "a", 2: "b", 3: b"i" * 16, 4: b"s" * 32, 5: b"e" * 32, 6: b"k" * 32}
    fields |= {7: 1, 8: 1, 9: 2, 10: 2, 11: b"n" * 16}
    assert len(fields) == len(Authentication.__struct_fields__)
    protected = protected_bytes(-7, b"s" * 32)
    parse_pair(sign1(protected, encode(fields), b"x" * 64))
    for number in (3, 6, 11):
        value = fields[number]
        assert isinstance(value, bytes)
        text = base64.b64encode(value).decode()
        with pytest.raises(PacketError):
            parse_pair(sign1(protected, encode({**fields, number: text}), b"x" * 64))


@pytest.mark.parametrize("item", [b"\x80", b"\xa0", b"\x00", b"\xf6", b"\x60"])
def test_a_packet_of_many_items_costs_nothing(item: bytes) -> None:
    count = 4 * 1024 * 1024 - 64
    for data in (
        b"\x9a" + count.to_bytes(4) + item * count,
        b"\x85\x64SDP1\x41\x00\xa1\x01\x9a" + count.to_bytes(4) + item * (count - 20),
    ):
        tracemalloc.start()
        try:
            with pytest.raises(PacketError):
                parse(data)
            assert tracemalloc.get_traced_memory()[1] < 3 * len(data)  # a list of them is eight times as large
        finally:
            tracemalloc.stop()


def altered(what: str) -> bytes:
    if what == "version":
        return LEAF.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    if what == "subject":
        return LEAF[: LEAF.rindex(b"Example")] + b"\xff\xfe\xff" + LEAF[LEAF.rindex(b"Example") + 3 :]
    if what == "kind of name":
        return LEAF.replace(b"\x86\x0aurn:test:a", b"\xa3\x0aurn:test:a")
    if what == "date":
        at = LEAF.index(b"\x17\x0d") + 2
        return LEAF[:at] + b"991399999999Z" + LEAF[at + 13 :]
    certificate = asn1.Certificate.load(LEAF)
    extensions = certificate["tbs_certificate"]["extensions"]
    extensions.append(extensions[0].copy())
    result: bytes = certificate.dump(force=True)
    return result


@pytest.mark.parametrize("what", ["version", "subject", "kind of name", "date", "extension twice"])
def test_a_certificate_that_somebody_made_up_is_refused(what: str) -> None:
    with pytest.raises(CertificateRefusedError):
        build_chain(IssuerTrust(issuers=(ROOT.der,)), (altered(what),), "urn:test:a", Use.SIGNING, START)
    with pytest.raises(CertificateRefusedError):
        build_chain(IssuerTrust(issuers=(ROOT.der,)), (LEAF[:-1], altered(what)), "urn:test:a", Use.SIGNING, START)
