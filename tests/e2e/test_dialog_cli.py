"""``hsm-msl dialog`` over two real processes, real HTTP and a real token, and its words when something is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from dialog_authority import Authority
from dialog_place import DEMO, Place
from dialog_world import World
from hsm_msl.audit.verification import read_checkpoint, read_records, verify_log


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("dialog"))


def test_two_services_from_the_command_line(place: Place) -> None:
    orders, stock = place.configure("orders", "stock"), place.configure("stock", "orders")
    with place.serve(orders) as orders_url, place.serve(stock) as stock_url:
        place.configure("orders", "stock", url=stock_url)
        place.configure("stock", "orders", url=orders_url)
        assert stock_url in place.run("bindings", orders)
        assert orders_url in place.run("bindings", stock)
        dialog = place.run("open", orders, "urn:demo:stock", "--contract", "chairs").strip()
        assert place.run("send", orders, dialog, "order", "three chairs") == "message 1\n"
        assert "order: three chairs" in place.run("receive", stock, "--wait", 30)
        place.run("send", stock, dialog, "answer", "reserved")
        assert "answer: reserved" in place.run("receive", orders, dialog, "--wait", 30)
        shown = place.run("show", stock, dialog)
        for word in ("pair header:", "key exchange key header:", "session key header:", "chairs", "cause", "start"):
            assert word in shown
        assert place.run("shift", orders, dialog) == "generation 2\n"
        place.run("send", orders, dialog[:8], "order\x1b[2J", "more")
        assert r"order\x1b[2J: more" in place.run("receive", stock, "--wait", 30)
        assert "2 operator" in place.run("show", stock, dialog)
        place.run("end", orders, dialog)
        place.run("end", stock, dialog, "--error", 7, "--text", "no chairs")
        assert "end-with-error 7: no chairs" in place.run("receive", orders, "--wait", 30)
        assert place.run("receive", stock, dialog, "--count", 9, "--wait", 600).endswith(" 3 end\n")
        assert "no message; --wait SECONDS waits for one" in place.run("receive", stock, code=1)
        assert "closed" in place.run("show", orders)
        spare = place.run("open", orders, "urn:demo:stock").strip()
        assert place.run("fail", orders, spare) == "failed: operator\n"
        assert "dialog failed: operator\n" in place.run("receive", orders, spare, "--count", 9, "--wait", 600)
        assert "good" in place.run("policy-check", orders)
        place.run("rotate", orders, "urn:demo:stock")


def test_trust_by_issuer_and_a_revocation_without_a_restart(place: Place) -> None:
    """Neither service has a certificate of the other pinned; a new list in the file is enough to revoke one."""
    root = Authority("root", time.time())
    for name in ("orders", "stock"):
        for use, usage in (("signing", "digital_signature"), ("kek", "key_agreement")):
            own = x509.load_pem_x509_certificate((place.directory / f"{name}.{use}.pem").read_bytes())
            issued = root.issue(f"urn:demo:{name}", own, usage)  # type: ignore[arg-type]  # it has a public key
            (place.directory / f"{name}.{use}.issued").write_bytes(issued)
    (place.directory / "root.cer").write_bytes(root.der)

    def issued_by_root(name: str, other: str, url: str = "") -> Path:
        path = place.configure(name, other, url=url)
        text = path.read_text().replace(f"{name}.signing.pem", f"{name}.signing.issued")
        text = text.replace(f"{name}.kek.pem", f"{name}.kek.issued").replace(f'signing = ["{other}.signing.pem"]', "")
        text = text.replace(
            f'encryption = ["{other}.kek.pem"]', f'issuers = ["root.cer"]\ncertificates = ["{other}.kek.issued"]'
        )
        path.write_text(text.replace("[store]", f'[revocation]\nlists = ["{name}.crl"]\n\n[store]'))
        return path

    orders, stock = issued_by_root("orders", "stock"), issued_by_root("stock", "orders")
    for name in ("orders", "stock"):
        (place.directory / f"{name}.crl").write_bytes(root.crl())
    with place.serve(orders) as orders_url, place.serve(stock) as stock_url:
        issued_by_root("orders", "stock", url=stock_url)
        issued_by_root("stock", "orders", url=orders_url)
        assert "issuer" in place.run("bindings", orders)
        place.run("bindings", stock)
        dialog = place.run("open", orders, "urn:demo:stock").strip()
        place.run("send", orders, dialog, "order", "three chairs")
        assert "order: three chairs" in place.run("receive", stock, "--wait", 30)
        revoked = (place.directory / "orders.signing.issued").read_bytes()
        (place.directory / "stock.crl").write_bytes(root.crl(revoked, begin=-1))
        time.sleep(1.2)
        place.run("send", orders, dialog, "order", "four chairs")
        assert "no message" in place.run("receive", stock, "--wait", 3, code=1)
    assert "is revoked" in (place.directory / "stock.log").read_text()


IN_WORKERS = """
[tokens.demo]
module = "softhsm"
label = "dialog-demo"
pin = "file:pins/user.pin"
workers = 1
deadline_seconds = 30
"""
IN_A_SET = """
[tokens.again]
module = "softhsm"
label = "dialog-demo"
pin = "file:pins/user.pin"

[token_sets.both]
tokens = ["demo", "again"]
mode = "spread"
"""


def test_tokens_in_workers_and_in_a_set(place: Place) -> None:
    """One service's token is in a worker process; the other's is two, one in a worker and one in the service."""

    def configured(name: str, other: str, url: str = "") -> Path:
        path = place.configure(name, other, url=url)
        alone = path.read_text()
        table = alone[alone.index("[tokens.demo]") : alone.index("[store]")]
        path.write_text(alone.replace(table, IN_WORKERS + (IN_A_SET if name == "stock" else "") + "\n"))
        return path

    orders, stock = configured("orders", "stock"), configured("stock", "orders")
    with place.serve(orders) as orders_url, place.serve(stock) as stock_url:
        configured("orders", "stock", url=stock_url)
        configured("stock", "orders", url=orders_url)
        place.run("bindings", orders)
        place.run("bindings", stock)
        dialog = place.run("open", orders, "urn:demo:stock").strip()
        place.run("send", orders, dialog, "order", "three chairs")
        assert "order: three chairs" in place.run("receive", stock, "--wait", 30)
        place.run("send", stock, dialog, "answer", "reserved")
        assert "answer: reserved" in place.run("receive", orders, dialog, "--wait", 30)
        place.run("rotate", stock, "urn:demo:orders")
        place.run("send", stock, dialog, "answer", "ready")
        assert "answer: ready" in place.run("receive", orders, dialog, "--wait", 30)


def test_session_keys_that_stay_in_the_token(place: Place) -> None:
    """``stock`` keeps its session keys in its token; ``orders`` does not, and says split_keys."""

    def configured(name: str, other: str, url: str = "") -> Path:
        path = place.configure(name, other, url=url)
        text = path.read_text()
        if name == "stock":
            text = text.replace("[store]", '[session_keys]\nresidency = "token"\n\n[store]')
        else:
            text = text.replace("suites = [2]", "suites = [2]\nsplit_keys = true")
        path.write_text(text)
        return path

    orders, stock = configured("orders", "stock"), configured("stock", "orders")
    with place.serve(orders) as orders_url, place.serve(stock) as stock_url:
        configured("orders", "stock", stock_url)
        configured("stock", "orders", orders_url)
        place.run("bindings", orders)
        place.run("bindings", stock)
        dialog = place.run("open", orders, "urn:demo:stock").strip()
        place.run("send", orders, dialog, "order", "three chairs")
        assert "order: three chairs" in place.run("receive", stock, "--wait", 30)
        place.run("send", stock, dialog, "answer", "reserved")
        assert "answer: reserved" in place.run("receive", orders, dialog, "--wait", 30)
        assert place.run("shift", stock, dialog) == "generation 2\n"


def test_what_is_wrong_is_said(place: Place, tmp_path: Path) -> None:
    config = place.configure("orders", "stock")
    assert "no dialog of urn:demo:orders with an id that begins with" in place.run("show", config, "ffffffff", code=1)
    assert "cannot be read" in place.run("show", tmp_path / "none.toml", code=78)
    text = config.read_text()
    (place.directory / "long.pem").write_bytes(5 * (place.directory / "orders.signing.pem").read_bytes())
    for old, new, words in (
        ("orders.signing.pem", "long.pem", "long.pem: holds 5 certificates"),
        ("orders.kek.v1", "stock.kek.v1", "belongs to another key"),
        ("dialog-demo", "no-such-token", "no-such-token"),
        ('label = "dialog-demo"', 'label = "dialog-demo"\nparameters = "x"', "tokens.demo: initialising"),
        (
            'label = "dialog-demo"',
            'label = "dialog-demo"\nvendor = "softhms"',
            "tokens.demo.vendor: no vendor profile",
        ),
        ('label = "dialog-demo"', 'label = "dialog-demo"\nrecycle_after = 1', "tokens.demo.recycle_after"),
        ('label = "dialog-demo"\n', "", "tokens.demo.label: this key is required"),
        ("suites = [2]", "suites = [9]", "bindings"),
        ("suites = [2]", "suites = [2, 3]", "suite 3 cannot be used"),
        ("suites = [2]", "suites = [4]\nsplit_keys = true", "split_keys: suite 4"),
        ("count = 3", "count = 0", "a rate needs a count"),
        ("suites = [2]", "suites = [2]\nnot_after = 1", "not_after"),
        ("[store]", "[cache]\nkeks = -1\n\n[store]", "cache.keks"),
        ('signing = ["stock.signing.pem"]', 'signing = ["stock.toml"]', "no certificate"),
        ('signing = ["stock.signing.pem"]', "", "trusts nobody"),
        ('encryption = ["stock.kek.pem"]', "", "nothing to encrypt to"),
        ('encryption = ["stock.kek.pem"]', 'issuers = ["stock.kek.pem"]', "not the certificate of an authority"),
    ):
        place.configure("stock", "orders")
        broken = place.directory / "broken.toml"
        broken.write_text(text.replace(old, new))
        assert words in place.run("show", broken, code=78), new


def test_a_recorded_packet_is_shown_without_keys(place: Place, tmp_path: Path) -> None:
    world = World()
    dialog = world.a.begin(world.b)
    world.a.send(dialog, 0, b"secret")
    (packet,) = world.outgoing(world.a)
    file = tmp_path / "packet"
    file.write_bytes(packet)
    shown = place.run("verify-packet", file)
    for word in ("kind", "app", "urn:test:a", "pair header:", "first_seq", "23 bytes, sealed"):
        assert word in shown
    file.write_bytes(packet[:-1])
    assert "not CBOR" in place.run("verify-packet", file, code=1)


def test_a_service_keeps_an_audit_log_that_verifies_with_the_public_key_alone(place: Place) -> None:
    config = place.configure("orders", "stock")
    text = config.read_text()
    distrusting = text.replace("signing = [", 'disabled = ["stock.signing.pem"]\nsigning = [')
    config.write_text(distrusting + '\n[audit]\nfile = "orders.audit.jsonl"\nsigning_key = "audit.signing.v1"\n')
    log = place.directory / "orders.audit.jsonl"
    with place.serve(config) as url:
        place.run("bindings", config)  # an operator who looks leaves no record
        stock = place.configure("stock", "orders", url=url)
        with place.serve(stock):
            place.run("send", stock, place.run("open", stock, "urn:demo:orders").strip(), "answer", "unasked")
            deadline = time.monotonic() + 30
            while "packets rejected" not in [record.event for record in read_records(log)]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    spki = place.directory / "audit.pem"
    place.provision("public-key", DEMO / "ceremony.toml", "audit.signing.v1", "--out", spki)
    rejected = next(record for record in read_records(log) if record.event == "packets rejected")
    assert "it is not pinned, enabled and valid" in rejected.details["reason"]
    events = [record.event for record in read_records(log) if record.event != "packets rejected"]
    assert events == ["server started", "server stopped", "checkpoint"]
    started = next(read_records(log)).details
    assert started["identity"] == "urn:demo:orders"
    assert "dialog-demo" in started["token demo"]
    key = load_pem_public_key(spki.read_bytes()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = read_checkpoint(place.directory / "orders.audit.jsonl.checkpoint").head
    assert verify_log([log], key, known=[known]).problem is None
    config.write_text(text + '\n[audit]\nfile = "other.jsonl"\nsigning_key = "audit.signing.v7"\n')
    assert "audit.signing_key" in place.run("serve", config, code=78)
    assert [record.event for record in read_records(place.directory / "other.jsonl")] == ["start refused"]
