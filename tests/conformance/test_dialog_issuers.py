"""Certificates trusted by issuer (dialog section 9): what is accepted, what is refused and in which words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from dialog_authority import DAY, Authority, Shelf
from dialog_keys import digest, ec_key, rsa_key
from dialog_world import START, Service, World
from hsm_msl.dialog.context import CacheSizes
from hsm_msl.dialog.engine import DialogEngine
from hsm_msl.dialog.errors import CertificateRefusedError, PacketError
from hsm_msl.dialog.headers import Certificates, parse_pair, sign1
from hsm_msl.dialog.issuers import IssuerTrust, Use, build_chain
from hsm_msl.dialog.names import Side, State
from hsm_msl.dialog.packet import parse
from hsm_msl.dialog.policy import Policy
from hsm_msl.dialog.revocation import check_revocation
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports.dialog import Evidence

INIT, TARGET = Side.INITIATOR, Side.TARGET
QUIET = Policy(on_peer_shift=False)
NAME = "urn:test:a"
KEY = ec_key("a service")
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN

ROOT = Authority("root", START)
MIDDLE = Authority("middle", START, ROOT)
STRANGER = Authority("stranger", START)
LEAF = ROOT.issue(NAME, KEY, "digital_signature")
DEEP = MIDDLE.issue(NAME, KEY, "digital_signature")


def trust(**changes: object) -> IssuerTrust:
    return IssuerTrust(**{"issuers": (ROOT.der,), **changes})  # type: ignore[arg-type]  # fields of the structure


def judge(
    presented: tuple[bytes, ...],
    evidence: Evidence | None = None,
    *,
    now: float = START,
    use: Use = Use.SIGNING,
    name: str = NAME,
    **changes: object,
) -> float:
    trusted = trust(**changes)
    chain = build_chain(trusted, presented, name, use, now)
    return check_revocation(chain, evidence or Evidence(lists=(ROOT.crl(), MIDDLE.crl())), trusted.revocation, now)


def test_a_certificate_of_the_issuer_is_accepted_until_its_list_runs_out() -> None:
    assert judge((LEAF,)) == START + 7 * DAY
    assert judge((LEAF,), revocation="off") == START + 90 * DAY
    assert judge((DEEP, MIDDLE.der)) == START + 7 * DAY
    rsa = ROOT.issue(NAME, rsa_key("a service"), "key_encipherment")
    assert judge((rsa,), use=Use.ENCRYPTION) == START + 7 * DAY
    assert judge((LEAF,), subject="O=Example") == START + 7 * DAY


def constrained(names: x509.NameConstraints) -> tuple[bytes, ...]:
    narrow = Authority("narrow", START, ROOT, [(names, True)])
    return narrow.issue(NAME, KEY, "digital_signature"), narrow.der


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "expired": (lambda: judge((LEAF,), now=START + 91 * DAY), "has expired"),
    "early": (lambda: judge((LEAF,), now=START - 2 * DAY), "not valid yet"),
    "another issuer": (
        lambda: judge((STRANGER.issue(NAME, KEY, "digital_signature"), STRANGER.der)),
        "no chain to a trusted issuer",
    ),
    "intermediate not shown": (lambda: judge((DEEP,)), "no chain to a trusted issuer"),
    "issued by a service": (
        lambda: judge((DEEP, ROOT.issue("middle", MIDDLE.key, "digital_signature"))),
        "no chain to a trusted issuer",
    ),
    "intermediate expired": (lambda: judge((DEEP, MIDDLE.der), now=START + 2000 * DAY), "has expired"),
    "another service": (lambda: judge((LEAF,), name="urn:test:b"), "names another service"),
    "a longer name": (lambda: judge((LEAF,), name=NAME + "/x"), "names another service"),
    "no purpose": (lambda: judge((ROOT.issue(NAME, KEY, "digital_signature", purpose=None),)), "lacks what"),
    "another purpose": (
        lambda: judge((ROOT.issue(NAME, KEY, "digital_signature", purpose=ExtendedKeyUsageOID.CLIENT_AUTH),)),
        "not for dialogs",
    ),
    "for encryption": (lambda: judge((ROOT.issue(NAME, KEY, "key_agreement"),)), "not for signing"),
    "for signing": (lambda: judge((LEAF,), use=Use.ENCRYPTION), "not for encryption"),
    "for both": (lambda: judge((ROOT.issue(NAME, KEY, "digital_signature", "key_agreement"),)), "allow_dual_use"),
    "another subject": (lambda: judge((LEAF,), subject="O=Other"), "subject is not the one"),
    "URI constraint": (
        lambda: judge(constrained(x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None))),
        "name constraint",
    ),
    "directory constraint": (
        lambda: judge(
            constrained(x509.NameConstraints(None, [x509.DirectoryName(x509.Name.from_rfc4514_string("O=X"))]))
        ),
        "nameConstraints",
    ),
    "unknown critical extension": (
        lambda: judge(
            (
                ROOT.issue(
                    NAME,
                    KEY,
                    "digital_signature",
                    extensions=[(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0"), True)],
                ),
            )
        ),
        "critical",
    ),
    "no certificate": (lambda: judge((b"no certificate",)), "cannot be read"),
    "no list": (lambda: judge((LEAF,), Evidence()), "is missing"),
    "no list of the intermediate": (
        lambda: judge((DEEP, MIDDLE.der), Evidence(lists=(ROOT.crl(),))),
        "is missing",
    ),
    "stale list": (lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(end=-1),))), "is out of date"),
    "list of the future": (lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(begin=DAY),))), "is out of date"),
    "list of a stranger": (lambda: judge((LEAF,), Evidence(lists=(STRANGER.crl(),))), "is missing"),
    "forged list": (
        lambda: judge((LEAF,), Evidence(lists=(ROOT.crl()[:-1] + bytes([ROOT.crl()[-1] ^ 1]),))),
        "is missing",
    ),
    "list of a part": (
        lambda: judge(
            (LEAF,),
            Evidence(
                lists=(
                    ROOT.crl(
                        extensions=[
                            (x509.IssuingDistributionPoint(None, None, False, True, None, False, False), True)
                        ]
                    ),
                )
            ),
        ),
        "is missing",
    ),
    "delta list": (
        lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(extensions=[(x509.DeltaCRLIndicator(1), True)]),))),
        "is missing",
    ),
    "broken list": (lambda: judge((LEAF,), Evidence(lists=(b"junk",))), "is missing"),
    "revoked": (lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(LEAF),))), "is revoked"),
    "revoked, said by a stale list": (
        lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(LEAF, end=-1),)), revocation="if_available"),
        "is revoked",
    ),
    "revoked, and a newer list forgot it": (
        lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(LEAF, begin=-2 * DAY), ROOT.crl()))),
        "is revoked",
    ),
    "intermediate revoked": (
        lambda: judge((DEEP, MIDDLE.der), Evidence(lists=(ROOT.crl(MIDDLE.der), MIDDLE.crl()))),
        "is revoked",
    ),
    "revoked, said by a response": (
        lambda: judge((LEAF,), Evidence(lists=(ROOT.crl(),), responses=(ROOT.response(LEAF, REVOKED),))),
        "is revoked",
    ),
    "response that does not know": (
        lambda: judge((LEAF,), Evidence(responses=(ROOT.response(LEAF, UNKNOWN),))),
        "is missing",
    ),
    "stale response": (lambda: judge((LEAF,), Evidence(responses=(ROOT.response(LEAF, end=-1),))), "out of date"),
    "response about another": (
        lambda: judge((LEAF,), Evidence(responses=(ROOT.response(ROOT.issue(NAME, KEY, "digital_signature")),))),
        "is missing",
    ),
    "response of a stranger": (
        lambda: judge(
            (LEAF,),
            Evidence(responses=(ROOT.response(LEAF, by=STRANGER.responder("far")),)),
        ),
        "is missing",
    ),
    "response of somebody without the right": (
        lambda: judge(
            (LEAF,),
            Evidence(responses=(ROOT.response(LEAF, by=ROOT.responder("cheat", allowed=False)),)),
        ),
        "is missing",
    ),
    "small key": (
        lambda: judge((ROOT.issue(NAME, rsa.generate_private_key(65537, 1024), "digital_signature"),)),
        "RSA key of 1024 bits; 2048 is the least",
    ),
    "broken response": (lambda: judge((LEAF,), Evidence(responses=(b"junk",))), "is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_refusal_has_its_words(what: str) -> None:
    attempt, words = REFUSED[what]
    with pytest.raises(CertificateRefusedError, match=words):
        attempt()


def test_what_else_says_that_nothing_is_revoked() -> None:
    for by in (None, ROOT.responder("near")):
        assert judge((LEAF,), Evidence(responses=(ROOT.response(LEAF, by=by),))) == START + DAY
    assert judge((LEAF,), Evidence(), revocation="if_available") == START + 90 * DAY
    assert judge((LEAF,), Evidence(lists=(ROOT.crl(LEAF),)), revocation="off") == START + 90 * DAY
    lifted = ROOT.crl(LEAF, reason=x509.ReasonFlags.remove_from_crl)
    assert judge((LEAF,), Evidence(lists=(lifted,))) == START + 7 * DAY


def test_constraints_on_other_kinds_of_names_do_not_concern_a_service() -> None:
    """RFC 5280 section 4.2.1.10: a constraint speaks of names of its own kind."""
    assert judge(
        constrained(x509.NameConstraints([x509.DNSName("example.org")], None)),
        Evidence(lists=(ROOT.crl(), Authority("narrow", START, ROOT).crl())),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuers": ()}, "needs the certificate of an issuer"),
        ({"issuers": (LEAF,)}, "not the certificate of an authority"),
        ({"issuers": (b"x",)}, "cannot be read"),
        ({"subject": "no attribute"}, "cannot be read"),
    ],
)
def test_trust_that_cannot_work_is_refused_at_the_start(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        trust(**changes).validate()


class Issued:
    """Two services that trust each other's authority and pin nothing."""

    def __init__(self, sizes: CacheSizes | None = None) -> None:
        self.world = World(bound=False, policy=QUIET, sizes=sizes)
        self.shelves = {service.name: Shelf([ROOT.crl(), MIDDLE.crl()]) for service in (self.world.a, self.world.b)}
        for service in (self.world.a, self.world.b):
            self.issue(service)
        for here, there in ((self.world.a, self.world.b), (self.world.b, self.world.a)):
            self.bind(here, there)

    def issue(self, service: Service, end: float = 90 * DAY, keep: bool = True) -> None:
        """Give a service certificates of the authorities."""
        signing = MIDDLE.issue(service.name, service.signing, "digital_signature", end=end)
        encryption = ROOT.issue(service.name, service.encryption, "key_agreement", end=end)
        service.signing_cert, service.encryption_cert = signing, encryption
        opener = {digest(encryption): service.opener(service.encryption)}
        service.opening = {**service.opening, **opener} if keep else opener
        presented = Certificates((signing, MIDDLE.der), (encryption,))
        service.local = dataclasses.replace(service.identity(), presented=presented)
        self.restart(service)

    def restart(self, service: Service) -> None:
        service.engine = DialogEngine(
            service.local, service.store, service.clock, service.random, service.sizes, self.shelves[service.name]
        )

    def bind(self, here: Service, there: Service, **changes: object) -> None:
        fields: dict[str, object] = {
            "signing": (),
            "encryption": (),
            "trust": trust(),
            "certificates": ((there.encryption_cert,),),
        }
        here.bind(here.binding(there, QUIET, **{**fields, **changes}))


@pytest.mark.parametrize("sizes", [None, CacheSizes(0, 0, 0, 0)])
def test_a_dialog_between_services_that_pin_nothing(sizes: CacheSizes | None) -> None:
    issued = Issued(sizes)
    world = issued.world
    dialog = world.open()
    world.a.send(dialog, INIT, b"more")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"more"]
    with world.b.store.reading() as tx:
        (row,) = tx.peer_certificates(world.b.name, world.a.name)
    assert row.chain == (world.a.encryption_cert,)


def test_rotated_certificates_are_picked_up_without_a_restart_or_a_word_to_the_peer() -> None:
    """The initiator changes both keys and both certificates; the target's engine and binding stay as they are."""
    issued = Issued()
    world = issued.world
    dialog = world.open()
    before = world.b.engine
    old = world.a.encryption_cert
    world.a.signing, world.a.encryption = ec_key("a sign 2"), ec_key("a open 2")
    issued.issue(world.a, end=180 * DAY)
    world.clock.advance(2)
    world.a.shift(dialog, INIT)
    world.a.send(dialog, INIT, b"under new keys")
    world.settle()
    world.clock.advance(2)
    world.b.shift(dialog, TARGET)
    world.b.send(dialog, TARGET, b"to the new key")
    (packet,) = world.outgoing(world.b)
    pair = parse_pair(parse(packet).ext.pair or b"").authentication
    assert pair.encryption_cert == digest(world.a.encryption_cert) != digest(old)
    world.deliver(world.b, world.deliver(world.a, [packet]))
    assert world.b.bodies(dialog, TARGET) == [b"under new keys"]
    assert world.a.bodies(dialog, INIT) == [b"to the new key"]
    assert world.b.engine is before


def test_a_key_that_was_rotated_away_is_replaced_by_the_one_the_notice_presents() -> None:
    """C11 with trust by issuer: nobody had seen the target's new certificate before."""
    issued = Issued()
    world = issued.world
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"sealed for the old key")
    world.b.encryption = ec_key("b open 2")
    issued.issue(world.b, keep=False)
    for _ in range(3):
        world.clock.advance(70)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"sealed for the old key"]
    assert "rewrapped" in world.names()


def test_revocation_takes_effect_on_the_next_packet_and_nothing_is_lost() -> None:
    issued = Issued()
    world = issued.world
    dialog = world.open()
    issued.shelves[world.b.name].put(ROOT.crl(), MIDDLE.crl(world.a.signing_cert))
    world.a.send(dialog, INIT, b"too late")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == []
    assert any("is revoked" in event.detail for event in world.events)
    assert world.b.state(dialog, TARGET).state == State.CONVERSING


def test_a_list_that_runs_out_stops_the_dialog_until_there_is_a_new_one() -> None:
    """Fail closed, and no verdict about the peer: what it sent arrives when the list is renewed."""
    issued = Issued()
    world = issued.world
    dialog = world.open(lifetime=20 * DAY)
    world.clock.advance(8 * DAY)
    issued.shelves[world.a.name].put(ROOT.crl(end=30 * DAY), MIDDLE.crl(end=30 * DAY))
    world.a.send(dialog, INIT, b"patience")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == []
    assert any("out of date" in event.detail for event in world.events)
    with world.b.store.transaction() as tx:
        assert world.b.engine.send(tx, dialog, TARGET, [("t", b"waits too")]) == 0
    issued.shelves[world.b.name].put(ROOT.crl(end=30 * DAY), MIDDLE.crl(end=30 * DAY))
    for _ in range(3):
        world.clock.advance(70)
        world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"patience"]
    assert world.a.bodies(dialog, INIT) == [b"waits too"]


def test_a_certificate_nobody_presented_is_refused() -> None:
    issued = Issued()
    world = issued.world
    world.a.local = dataclasses.replace(world.a.local, presented=Certificates())
    issued.restart(world.a)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    world.deliver(world.b, world.outgoing(world.a))
    assert any("was not presented" in event.detail for event in world.events)
    assert world.b.token.done["private"] == 0


def test_a_peer_cannot_present_certificates_of_another_service() -> None:
    """The signature of one service of the authority does not speak for another one."""
    issued = Issued()
    world = issued.world
    other = MIDDLE.issue("urn:test:c", world.a.signing, "digital_signature")
    world.a.signing_cert = other
    presented = Certificates((other, MIDDLE.der), world.a.local.presented.encryption)
    world.a.local = dataclasses.replace(world.a.local, signing_cert=digest(other), presented=presented)
    issued.restart(world.a)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    world.deliver(world.b, world.outgoing(world.a))
    assert any("names another service" in event.detail for event in world.events)


def test_a_service_is_not_encrypted_to_by_a_certificate_of_somebody_else() -> None:
    """What rides unprotected is judged like everything else, and never replaces what is known."""
    issued = Issued()
    world = issued.world
    stray = STRANGER.issue(world.a.name, ec_key("thief"), "key_agreement", end=900 * DAY)
    presented = Certificates(world.a.local.presented.signing, (stray,))
    world.a.local = dataclasses.replace(world.a.local, presented=presented)
    issued.restart(world.a)
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    world.settle()
    assert world.b.bodies(dialog, TARGET) == [b"x"]
    with world.b.store.reading() as tx:
        assert tx.peer_certificates(world.b.name, world.a.name) == []
    assert world.b.engine.counted["certificates_refused"] == 1


def test_learned_certificates_are_few() -> None:
    issued = Issued()
    world = issued.world
    dialog = world.open()
    for number in range(12):
        issued.issue(world.a, end=(100 + number) * DAY)
        world.clock.advance(10)
        world.a.shift(dialog, INIT)
        world.a.send(dialog, INIT, b"x")
        world.settle()
    with world.b.store.reading() as tx:
        kept = tx.peer_certificates(world.b.name, world.a.name)
    assert len(kept) == 8
    assert max(row.not_after for row in kept) == START + 111 * DAY


@pytest.mark.parametrize("bucket", [{1: b"x"}, {33: b"x"}, {33: []}, {33: [b""]}, {33: [b"x"] * 5}, {33: [1]}])
def test_malformed_chains_are_no_headers(bucket: dict[int, object]) -> None:
    world = World()
    dialog = world.a.begin(world.b)
    world.a.send(dialog, INIT, b"x")
    pair = parse_pair(parse(world.outgoing(world.a)[0]).ext.pair or b"")

    class Any(msgspec.Struct, frozen=True):
        def bucket(self) -> dict[int, object]:
            return bucket

    with pytest.raises(PacketError):
        parse_pair(sign1(pair.protected, pair.payload, pair.signature, Any()))  # type: ignore[arg-type]  # on purpose
