"""Every user directory: argon2id, constant work, exact emails (issue 2; msl-schemes section 3.2)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import argon2
import pytest
from sqlalchemy import text

from database_fixture import url_of
from hsm_msl.errors import StoreError, UsageError
from hsm_msl.ports import Users
from hsm_msl.stores.memory import MemoryUserRecords
from hsm_msl.stores.passwords import PasswordCost, Passwords, RecentPasswords
from hsm_msl.stores.schema import prepare
from hsm_msl.stores.sql import Database
from hsm_msl.stores.users import SqlUserRecords, UserDirectory, UserRecord, UserRecords

CHEAP = PasswordCost(passes=1, memory=64, lanes=1)
DEARER = PasswordCost(passes=2, memory=64, lanes=1)


class CountingPasswords(Passwords):
    """Counts argon2 verifications and what they were made against; the work itself is real."""

    def __init__(self, cost: PasswordCost = CHEAP) -> None:
        self.verified: list[bool] = []
        super().__init__(os.urandom, cost)

    def verify(self, stored: str | None, password: str) -> bool:
        self.verified.append(stored is not None)
        return super().verify(stored, password)


class Now:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def records(request: pytest.FixtureRequest) -> Iterator[UserRecords]:
    if request.param == "memory":
        yield MemoryUserRecords()
        return
    database = Database(url_of(request.param, request))
    prepare(database)
    yield SqlUserRecords(database)
    database.close()


@pytest.fixture
def passwords() -> CountingPasswords:
    return CountingPasswords()


@pytest.fixture
def users(records: UserRecords, passwords: CountingPasswords) -> UserDirectory:
    return UserDirectory(records, passwords)


def test_right_password_gives_the_identity(users: UserDirectory) -> None:
    users.add("ann@example.com", "correct horse", "user-17")
    users.add("bob@example.com", "pässwörd €")
    port: Users = users
    assert port.authenticate("ann@example.com", "correct horse") == "user-17"
    assert port.authenticate("bob@example.com", "pässwörd €") == "bob@example.com"


@pytest.mark.parametrize("wrong", ["", "correct  horse", "Correct horse", "correct\0 horse", "\ud800", "x" * 100_000])
def test_wrong_password_is_none(users: UserDirectory, wrong: str) -> None:
    users.add("ann@example.com", "correct horse")
    assert users.authenticate("ann@example.com", wrong) is None


@pytest.mark.parametrize(
    "unknown", ["", " ", "Ann@example.com", "ann\0@example.com", "ann@example.co", "%", "\ud800", "x" * 100_000]
)
def test_unknown_email_is_none_after_the_same_work(
    users: UserDirectory, passwords: CountingPasswords, unknown: str
) -> None:
    """An email is compared exactly; a text no database takes is unknown, not an outage."""
    users.add("ann@example.com", "correct horse")
    assert users.authenticate(unknown, "correct horse") is None
    assert passwords.verified == [False]


def test_white_space_at_the_ends_does_not_count(users: UserDirectory) -> None:
    """The protocol trims both values before they reach a directory, so neither may depend on them."""
    users.add(" ann@example.com\n", " correct horse ")
    assert users.authenticate("ann@example.com", "correct horse") is not None
    assert users.authenticate("\tann@example.com ", "correct horse\r\n") is not None
    assert users.authenticate("\0ann@example.com\x1f", "correct horse\0") is not None


@pytest.mark.parametrize("space", ["\u00a0", "\u0085", "\u3000"])
def test_other_white_space_counts(users: UserDirectory, space: str) -> None:
    users.add("ann@example.com" + space, space + "correct horse")
    assert users.authenticate("ann@example.com", "correct horse") is None
    assert users.authenticate("ann@example.com" + space, "correct horse") is None
    assert users.authenticate("ann@example.com" + space, space + "correct horse") is not None


def test_only_argon2id_text_is_stored(users: UserDirectory, records: UserRecords) -> None:
    users.add("ann@example.com", "correct horse")
    users.add("bob@example.com", "correct horse")
    ann, bob = records.find("ann@example.com"), records.find("bob@example.com")
    assert ann is not None
    assert bob is not None
    assert ann.password.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert ann.password != bob.password, "each hash has its own salt"
    assert ann.password not in repr(ann)


def test_default_cost_is_that_of_rfc_9106() -> None:
    parameters = argon2.extract_parameters(Passwords(os.urandom).hash("x"))
    assert (parameters.type, parameters.time_cost, parameters.memory_cost, parameters.parallelism) == (
        argon2.Type.ID, 3, 65536, 4
    )  # fmt: skip


def test_taken_email_and_blank_values_are_refused(users: UserDirectory) -> None:
    users.add("ann@example.com", "first")
    with pytest.raises(UsageError, match="already"):
        users.add("ann@example.com", "second")
    assert users.authenticate("ann@example.com", "first") is not None
    for email, password in ((" ", "x"), ("x" * 2000, "x"), ("bob@example.com", " ")):
        with pytest.raises(UsageError, match="blank"):
            users.add(email, password)


def test_long_and_strange_identities_are_kept(users: UserDirectory) -> None:
    identities = ["x" * 5000, "a\0\\b", "\ud800", ""]
    for number, identity in enumerate(identities):
        users.add(f"user{number}", "password", identity)
    assert [users.authenticate(f"user{number}", "password") for number in range(4)] == identities


def test_changed_password_replaces_the_old_one(users: UserDirectory) -> None:
    users.add("ann@example.com", "first", "user-17")
    users.set_password("ann@example.com", "second")
    assert users.authenticate("ann@example.com", "first") is None
    assert users.authenticate("ann@example.com", "second") == "user-17"
    with pytest.raises(UsageError, match="no user"):
        users.set_password("bob@example.com", "x")


def test_removed_user_is_unknown(users: UserDirectory) -> None:
    users.add("ann@example.com", "first")
    users.remove("ann@example.com")
    assert users.authenticate("ann@example.com", "first") is None
    with pytest.raises(UsageError, match="no user"):
        users.remove("ann@example.com")
    users.add("ann@example.com", "again")
    assert users.authenticate("ann@example.com", "again") is not None


def test_hash_from_elsewhere_is_taken_over_and_renewed_at_log_in(users: UserDirectory, records: UserRecords) -> None:
    old = argon2.PasswordHasher(time_cost=2, memory_cost=32, parallelism=1, type=argon2.Type.I).hash("first")
    users.add_hashed("ann@example.com", old, "user-17")
    assert users.authenticate("ann@example.com", "wrong") is None
    kept = records.find("ann@example.com")
    assert kept is not None
    assert kept.password == old
    assert users.authenticate("ann@example.com", "first") == "user-17"
    renewed = records.find("ann@example.com")
    assert renewed is not None
    assert renewed.password.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    with pytest.raises(UsageError, match="argon2"):
        users.add_hashed("bob@example.com", "secret in plain")


def test_hashes_are_renewed_when_the_cost_changes(users: UserDirectory, records: UserRecords) -> None:
    users.add("ann@example.com", "first")
    dearer = UserDirectory(records, Passwords(os.urandom, DEARER))
    assert dearer.authenticate("ann@example.com", "first") is not None
    record = records.find("ann@example.com")
    assert record is not None
    assert ",t=2," in record.password
    assert users.authenticate("ann@example.com", "first") is not None


class ChangedMeanwhile:
    """Lets somebody else change the password between the look-up and the renewal of its hash."""

    def __init__(self, records: UserRecords, meanwhile: str) -> None:
        self._records = records
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> object:
        return getattr(self._records, name)

    def find(self, email: str) -> UserRecord | None:
        record = self._records.find(email)
        self._records.change_password(email, self._meanwhile)
        return record


def test_renewal_of_a_hash_never_undoes_a_change_of_password(users: UserDirectory, records: UserRecords) -> None:
    users.add("ann@example.com", "first")
    meanwhile = Passwords(os.urandom, CHEAP).hash("second")
    racing = UserDirectory(ChangedMeanwhile(records, meanwhile), Passwords(os.urandom, DEARER))  # type: ignore[arg-type]  # forwards
    assert racing.authenticate("ann@example.com", "first") is not None
    assert users.authenticate("ann@example.com", "second") is not None


def test_damaged_hash_is_an_outage_and_no_verdict(records: UserRecords, users: UserDirectory) -> None:
    records.add(UserRecord("ann@example.com", "ann", "$argon2id$v=19$m=64,t=1,p=1$damaged"))
    with pytest.raises(StoreError) as caught:
        users.authenticate("ann@example.com", "first")
    assert "first" not in str(caught.value)


def test_emails_are_listed_in_pages(users: UserDirectory, records: UserRecords) -> None:
    expected = [f"user{number}@example.com" for number in range(5)]
    for email in expected:
        users.add(email, "x")
    first = records.emails(limit=3)
    assert [*first, *records.emails(after=first[-1], limit=3)] == expected


def test_concurrent_additions_of_one_email_have_one_winner(users: UserDirectory) -> None:
    barrier = threading.Barrier(4)
    added: list[int] = []

    def add(number: int) -> None:
        barrier.wait(20)
        try:
            users.add("ann@example.com", f"password {number}")
        except UsageError:
            return
        added.append(number)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(added) == 1
    assert users.authenticate("ann@example.com", f"password {added[0]}") is not None


def test_users_out_of_reach_are_a_store_error(database: Database) -> None:
    """No tables: neither a wrong password nor an unknown user."""
    users = UserDirectory(SqlUserRecords(database), CountingPasswords())
    with pytest.raises(StoreError):
        users.authenticate("ann@example.com", "first")


def test_authentication_does_not_wait_for_a_store_that_cannot_take_a_better_hash(database: Database) -> None:
    """The right password stays right while the store is read-only; the hash is renewed another day."""
    prepare(database)
    records = SqlUserRecords(database)
    UserDirectory(records, Passwords(os.urandom, CHEAP)).add("ann@example.com", "first")
    _refuse_updates(database)
    assert UserDirectory(records, Passwords(os.urandom, DEARER)).authenticate("ann@example.com", "first") is not None


def _refuse_updates(database: Database) -> None:
    body = "BEGIN SELECT RAISE(ABORT, 'read-only'); END"
    statements = [f"CREATE TRIGGER refuse BEFORE UPDATE ON users {body}"]
    if not database.is_sqlite:
        statements = [
            "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE 'read-only'; END $$ LANGUAGE plpgsql",
            "CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
        ]
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


class TestRecentPasswords:
    """The optional memory of passwords that fitted a moment ago."""

    @pytest.fixture
    def now(self) -> Now:
        return Now()

    @pytest.fixture
    def recent(self, now: Now) -> RecentPasswords:
        return RecentPasswords(now, os.urandom, seconds=60, entries=2)

    @pytest.fixture
    def users(self, records: UserRecords, passwords: CountingPasswords, recent: RecentPasswords) -> UserDirectory:
        directory = UserDirectory(records, passwords, recent)
        for name in ("ann", "bob", "eve"):
            directory.add(name, f"password of {name}")
        return directory

    def test_repeated_password_costs_one_verification(
        self, users: UserDirectory, passwords: CountingPasswords, now: Now
    ) -> None:
        for _ in range(5):
            assert users.authenticate("ann", "password of ann") == "ann"
        assert passwords.verified == [True]
        now.seconds += 60
        assert users.authenticate("ann", "password of ann") == "ann"
        assert passwords.verified == [True, True]

    def test_wrong_password_is_never_remembered(self, users: UserDirectory, passwords: CountingPasswords) -> None:
        users.authenticate("ann", "password of ann")
        for _ in range(2):
            assert users.authenticate("ann", "wrong") is None
            assert users.authenticate("bob", "password of ann") is None
        assert len(passwords.verified) == 5

    def test_changed_and_removed_users_are_not_answered_from_memory(self, users: UserDirectory) -> None:
        users.authenticate("ann", "password of ann")
        users.authenticate("bob", "password of bob")
        users.set_password("ann", "another")
        users.remove("bob")
        assert users.authenticate("ann", "password of ann") is None
        assert users.authenticate("bob", "password of bob") is None

    def test_memory_is_bounded_and_oldest_goes_first(
        self, users: UserDirectory, passwords: CountingPasswords
    ) -> None:
        for name in ("ann", "bob", "eve", "bob", "eve"):
            users.authenticate(name, f"password of {name}")
        assert len(passwords.verified) == 3
        users.authenticate("ann", "password of ann")
        assert len(passwords.verified) == 4

    def test_clock_set_back_does_not_prolong_an_entry(
        self, users: UserDirectory, passwords: CountingPasswords, now: Now
    ) -> None:
        users.authenticate("ann", "password of ann")
        now.seconds -= 3600
        users.authenticate("ann", "password of ann")
        assert len(passwords.verified) == 2

    def test_no_password_is_held_in_the_clear(self, users: UserDirectory, recent: RecentPasswords) -> None:
        users.authenticate("ann", "password of ann")
        held = repr({name: getattr(recent, name) for name in vars(recent)})
        assert "password of ann" not in held
