"""Users of another system, taken over with their argon2id hashes (PHC strings)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from argon2 import PasswordHasher, Type

from ceremony_fixture import CeremonyBench
from hsm_msl.stores.passwords import Passwords
from hsm_msl.stores.sql import Database
from hsm_msl.stores.users import SqlUserRecords, UserDirectory
from hsm_provision.user_hashes import hash_problem

CHEAP = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
USERS = '\n[users]\ndatabase = "users.sqlite"\n'
ADA = CHEAP.hash("correct horse")
BOB = CHEAP.hash("battery staple")


@pytest.fixture
def ceremony(bench: CeremonyBench) -> Path:
    return bench.ceremony(extra=USERS, signing=False)


@contextmanager
def directory(bench: CeremonyBench) -> Iterator[UserDirectory]:
    """Open the users as a server does."""
    database = Database(f"sqlite:///{bench.work / 'users.sqlite'}")
    try:
        yield UserDirectory(SqlUserRecords(database), Passwords(os.urandom))
    finally:
        database.close()


def stored(bench: CeremonyBench, email: str) -> str:
    database = Database(f"sqlite:///{bench.work / 'users.sqlite'}")
    try:
        record = SqlUserRecords(database).find(email)
    finally:
        database.close()
    assert record is not None
    return record.password


def line(email: str, password_hash: str, *more: str) -> str:
    return ",".join([email, f'"{password_hash}"', *more])


def test_users_log_in_with_the_passwords_they_had(bench: CeremonyBench, ceremony: Path) -> None:
    """No token, no PIN, no password: the hash goes over as it is and is made anew at the user's next log-in."""
    lines = ["email,hash,identity", line("ada@example.com", ADA, "ada"), line("bob@example.com", BOB, "")]
    done = bench.run("import-users", ceremony, "-", stdin="\n".join(lines))
    assert done.code == 0, done.err
    assert "2 user(s) stored" in done.out
    assert stored(bench, "ada@example.com") == ADA
    with directory(bench) as users:
        assert users.authenticate("ada@example.com", "correct horse") == "ada"
        assert users.authenticate("bob@example.com", "battery staple") == "bob@example.com"
        assert users.authenticate("ada@example.com", "battery staple") is None
    assert stored(bench, "ada@example.com").startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_repeating_changes_nothing_and_another_hash_needs_replace(bench: CeremonyBench, ceremony: Path) -> None:
    bench.write("users.csv", "\n".join(["email,hash", line("ada@example.com", ADA)]))
    assert bench.run("import-users", ceremony, "users.csv").code == 0
    assert "0 user(s) stored, 1 as before" in bench.run("import-users", ceremony, "users.csv").out
    bench.write("users.csv", "\n".join(["email,hash", line("ada@example.com", BOB)]))
    refused = bench.run("import-users", ceremony, "users.csv")
    assert refused.code == 11
    assert "another hash or identity" in refused.out
    assert stored(bench, "ada@example.com") == ADA
    assert bench.run("import-users", ceremony, "users.csv", "--replace").code == 0
    assert stored(bench, "ada@example.com") == BOB


def test_bad_lines_are_named_without_their_hash_and_the_others_stored(bench: CeremonyBench, ceremony: Path) -> None:
    bcrypt = "$2b$12$abcdefghijklmnopqrstuuSECRETSECRETSECRETSECRETSECRETSECR"
    lines = [
        "email,hash",
        line("b@example.com", bcrypt),
        line("i@example.com", PasswordHasher(1, 1024, 1, type=Type.I).hash("x")),
        line("huge@example.com", ADA.replace("m=1024", "m=99999999")),
        line("cut@example.com", ADA[:-60]),
        "only one column",
        line("", ADA),
        ADA + ",ada@example.com",
        "",
        line("good@example.com", BOB),
    ]
    done = bench.run("import-users", ceremony, "-", stdin="\n".join(lines))
    assert done.code == 11, done.err
    assert "1 user(s) stored" in done.out
    report = bench.work / "records/rejects/users.jsonl"
    assert report.stat().st_mode & 0o077 == 0
    refused = [json.loads(entry) for entry in report.read_text().splitlines()]
    assert [entry["line"] for entry in refused] == [2, 3, 4, 5, 6, 7, 8]
    assert [entry["email"] for entry in refused][:4] == [f"{name}@example.com" for name in ("b", "i", "huge", "cut")]
    told = done.out + done.err + report.read_text() + (bench.work / "records/audit.jsonl").read_text()
    for text in (bcrypt, ADA, BOB, ADA.split("$")[-1], ADA[:-60].split("$")[-1]):
        assert text not in told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,password\nada,x\n", "the header must be email,hash"),
        ("", "0 user(s) stored"),
    ],
)
def test_a_file_of_another_kind_is_named(bench: CeremonyBench, ceremony: Path, text: str, complaint: str) -> None:
    done = bench.run("import-users", ceremony, "-", stdin=text)
    assert complaint in done.out + done.err
    assert "Traceback" not in done.err


def test_a_file_of_hashes_that_others_may_read_is_refused(bench: CeremonyBench, ceremony: Path) -> None:
    bench.write("users.csv", "email,hash\n").chmod(0o644)
    done = bench.run("import-users", ceremony, "users.csv")
    assert done.code == 2
    assert "chmod 600" in done.err


def test_a_ceremony_without_users_says_what_is_missing(bench: CeremonyBench) -> None:
    done = bench.run("import-users", bench.ceremony(signing=False), "-")
    assert done.code == 2
    assert "users.database" in done.err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("v=19", "v=16"), "another version"),
        (("t=1", "t=1000"), "passes"),
        (("p=1", "p=200"), "lanes"),
        (("$argon2id$", "$argon2d$"), "not argon2id"),
        (("v=19", "v=x"), "not a whole argon2id text"),
    ],
)
def test_a_hash_must_be_one_a_server_can_afford(change: tuple[str, str], complaint: str) -> None:
    """A line of a file must not decide that every log-in takes a gibibyte."""
    assert hash_problem(ADA) is None
    assert complaint in str(hash_problem(ADA.replace(*change)))
