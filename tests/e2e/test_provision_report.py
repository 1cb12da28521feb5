"""The ceremony report page, the offline audit check, roles, and the command itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from ceremony_fixture import PROVISIONING, CeremonyBench

KEYS = ('profile = "msl-token-mac"', 'profile = "ec-identity"')


class Page(HTMLParser):
    """Collects tags, attributes and text; unbalanced tags fail the test."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def report(bench: CeremonyBench, *witnesses: str) -> tuple[int, str]:
    arguments = [text for name in witnesses for text in ("--witness", name)]
    outcome = bench.run("report", bench.work / "test.toml", "--out", "report.html", "--actor", "Olga", *arguments)
    return outcome.code, (bench.work / "report.html").read_text()


def test_the_report_says_who_what_and_how_it_was_proved(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    code, text = report(bench, "Alice <script>", "Bob")
    assert code == 0
    page = Page(text)
    entry = bench.entry("msl.token.mac.v1")
    grouped = " ".join(re.findall("....", entry["check"]["value"]))
    plan = next((bench.work / "records/plans").iterdir()).stem
    for part in (
        "Verified",
        "Alice <script>",
        "Bob",
        "Olga",
        "ceremony test",
        bench.manifest()["token"]["serial"],
        "msl.token.mac.v1",
        grouped,
        "never extractable",
        "key generated",
        "The audit log of",
        "Operator",
        " ".join(re.findall("....", plan[:32])),
    ):
        assert part in page.words, part
    assert "<script" not in text
    assert bench.pin not in text


HOSTILE = "</style><script>alert(1)</script>\"'&<img src=x onerror=1>"


def test_everything_on_the_page_is_escaped(bench: CeremonyBench) -> None:
    """Whatever people or tokens are called, the page shows it and never runs it."""
    ceremony = bench.ceremony(*KEYS)
    ceremony.write_text(f"description = {json.dumps(HOSTILE)}\n" + ceremony.read_text())
    done = bench.run("apply", ceremony, "--actor", HOSTILE, "--witness", HOSTILE + "1", "--witness", HOSTILE + "2")
    assert done.code == 0, done.err
    bench.python(f"session.generate_key(T.AES, 128, store=True, label={HOSTILE!r}, mechanism=M.AES_KEY_GEN)")
    code, text = report(bench, HOSTILE + "3")
    assert code == 5
    page = Page(text)
    for found in (HOSTILE, HOSTILE + "1", HOSTILE + "2", HOSTILE + "3", f"unknown secret object {HOSTILE!r}"):
        assert found in page.words
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert "<script" not in text
    assert text.count("</style>") == 1


def test_the_report_names_witnesses_approvals_and_what_was_destroyed(bench: CeremonyBench) -> None:
    people = ""
    for name in ("alice", "bob"):
        bench.write(f"{name}.pass", f"passphrase of {name}\n")
        people += bench.run("approver-key", f"{name}.pem", "--passphrase", f"file:{bench.work}/{name}.pass").out
    ceremony = bench.ceremony('profile = "msl-token-mac"', extra="\n" + people)
    done = bench.run("apply", ceremony, "--actor", "Olga", "--witness", "First, W.", "--witness", "Second W.")
    assert done.code == 0, done.err
    assert bench.run("rotate", ceremony, "msl.token", "--yes", "--actor", "Olga").code == 0
    assert bench.run("retire", ceremony, "msl.token.mac.v1", "--without-evidence", "--yes").code == 0
    digest = bench.run("destroy", ceremony, "msl.token.mac.v1").out.split()[-1]
    for name in ("alice", "bob"):
        approve = (
            "approve",
            ceremony,
            digest,
            "--key",
            f"{name}.pem",
            "--passphrase",
            f"file:{bench.work}/{name}.pass",
        )
        assert bench.run(*approve).code == 0
    gone = bench.run("destroy", ceremony, "msl.token.mac.v1", "--request", digest, "--yes", "--witness", "Third W.")
    assert gone.code == 0, gone.err
    code, text = report(bench)
    words = Page(text).words
    assert code == 0
    assert "First, W.; Second W.; Third W." in words
    assert f"alice: destroy {digest[:16]}" in words
    assert f"bob: destroy {digest[:16]}" in words
    for key in re.findall('public_key = "(.+)"', people):
        shown = hashlib.sha256(base64.b64decode(key)).hexdigest()
        assert " ".join(re.findall("." * 8, shown)) in words
    assert (
        f"ceremony file {' '.join(re.findall('.' * 8, hashlib.sha256(ceremony.read_bytes()).hexdigest()))}" in words
    )
    assert "What was destroyed is gone." in words
    assert text.count("date and signature") >= 4
    manifest = hashlib.sha256((bench.work / "records/manifest.json").read_bytes()).hexdigest()
    assert " ".join(re.findall("....", manifest[:32])) in words
    assert re.search(r'@bottom-right \{ content: "page " counter\(page\)', text)


def test_the_report_loads_nothing_from_elsewhere(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    page = Page(report(bench)[1])
    assert not [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_report_names_what_is_wrong(bench: CeremonyBench) -> None:
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    bench.python("key('msl.token.mac.v1').destroy()")
    code, text = report(bench)
    words = Page(text).words
    assert code == 5
    assert "NOT VERIFIED" in words
    assert "msl.token.mac.v1: its secret object is missing" in words


def test_the_audit_log_is_verified_offline_with_the_public_key_alone(bench: CeremonyBench) -> None:
    """Roles: an auditor needs no PIN and no token."""
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    assert bench.run("public-key", ceremony, "audit.signing.v1", "--out", "audit.pem").code == 0
    for path in [*(bench.work / "pins").iterdir(), *(bench.directory / "tokens").rglob("*.object")]:
        path.unlink()
    arguments = ["audit", "verify", "records/audit.jsonl", "--public-key", "audit.pem"]
    arguments += ["--manifest", "records/manifest.json"]
    whole = bench.run(*arguments)
    assert whole.code == 0, whole.out + whole.err
    assert "the log is whole" in whole.out
    log = bench.work / "records/audit.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    cut = bench.run(*arguments)
    assert cut.code == 5
    assert f"record {len(lines)}: missing" in cut.out
    log.write_text("".join([lines[0].replace("apply", "apple"), *lines[1:]]))
    changed = bench.run(*arguments)
    assert changed.code == 5
    assert "record 1: its content was changed" in changed.out


SERVICE = """
import sys
from pkcs11 import Attribute as A, KeyType as T, Mechanism as M, ObjectClass as C
from hsm_msl.backend.pin import pin_source
from hsm_msl.backend.pkcs11.login import Login
from hsm_msl.backend.pkcs11.module import load
module = load(sys.argv[1])
token = module.token(label=sys.argv[2])
login = Login(module, token, pin_source("file:" + sys.argv[3]))
login.ensure()
session = token.open()  # as the service opens them: read only
key = session.get_key(label="msl.token.mac.v1", object_class=C.SECRET_KEY)
wrap = session.generate_key(T.AES, 256, store=False, mechanism=M.AES_KEY_GEN, template={A.WRAP: True})
print("uses", len(key.sign(b"data", mechanism=M.SHA256_HMAC)))
attempts = {
    "create": lambda: session.generate_key(T.AES, 128, store=True, mechanism=M.AES_KEY_GEN),
    "import": lambda: session.create_object(
        {A.CLASS: C.SECRET_KEY, A.KEY_TYPE: T.AES, A.VALUE: bytes(16), A.TOKEN: True, A.PRIVATE: True}),
    "destroy": lambda: key.destroy(),
    "read": lambda: key[A.VALUE],
    "export": lambda: wrap.wrap_key(key, mechanism=M.AES_KEY_WRAP),
    "escalate": lambda: key.__setitem__(A.ENCRYPT, True),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "ALLOWED")
    except Exception as error:
        print(name, "refused", type(error).__name__)
"""


def test_the_service_user_can_neither_create_nor_export_nor_destroy(bench: CeremonyBench) -> None:
    """Roles, shown on the token: the sessions a service opens use keys and can do nothing else to them."""
    bench.apply(bench.ceremony(*KEYS))
    outcome = bench.script(SERVICE, bench.module, bench.label, bench.work / "pins/user.pin")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "uses 32"
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, "refused"] for name in ("create", "import", "destroy", "read", "export", "escalate")
    ], outcome.out


def test_the_service_package_holds_no_code_to_create_keys() -> None:
    """The code to create, export or destroy keys is not installed with a service (import contract, by text)."""
    for path in (PROVISIONING.parent / "hsm_msl").rglob("*.py"):
        assert "hsm_provision" not in path.read_text(), path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_names_the_verbs(bench: CeremonyBench, shell: str) -> None:
    outcome = bench.run(
        _HSM_PROVISION_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="hsm-provision re",
        COMP_WORDS="hsm-provision re",
        COMP_CWORD="1",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    for verb in ("restore", "retire", "report", "rewrap-fleet"):
        assert verb in outcome.out, outcome.out + outcome.err


HELP = """
import sys
from hsm_provision.cli.main import run
for verb in sys.argv[1:]:
    print("=====", verb)
    run([verb, "--help"])
"""


def test_every_verb_explains_itself_with_an_example(bench: CeremonyBench) -> None:
    listed = bench.run("--help").out
    verbs = re.findall(r"^  ([a-z-]+)  ", listed[listed.index("Commands:") :], re.MULTILINE)
    assert len(verbs) >= 18
    pages = bench.script(HELP, *verbs).out.split("===== ")[1:]
    without = {page.split()[0] for page in pages if "Example:" not in page}
    assert len(pages) == len(verbs)
    assert without == {"audit", "version"}
    assert "Exit codes:" in listed


def test_wrong_usage_is_exit_code_two_and_no_traceback(bench: CeremonyBench) -> None:
    for arguments in (["apply"], ["nonsense"], ["apply", "missing.toml"], ["plan", "a", "b", "c"]):
        outcome = bench.run(*arguments)
        assert outcome.code == 2, arguments
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize("harm", ["cut", "gone", "rewritten"])
def test_nothing_is_signed_on_top_of_a_log_that_was_cut(bench: CeremonyBench, harm: str) -> None:
    """The next checkpoint and manifest would vouch for what is left, and nobody could tell any more."""
    ceremony = bench.ceremony(*KEYS)
    bench.apply(ceremony)
    path, manifest = bench.work / "records/audit.jsonl", bench.work / "records/manifest.json"
    before = manifest.read_bytes()
    lines = path.read_bytes().splitlines(keepends=True)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[:-4]) if harm == "cut" else b"".join(lines[:2] + lines[3:]))
    outcome = bench.run("rotate", ceremony, "msl.token", "--yes")
    assert outcome.code == 2
    assert "audit.jsonl" in outcome.err
    assert manifest.read_bytes() == before
    assert bench.run("apply", ceremony).code == 2
