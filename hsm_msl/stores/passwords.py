"""Argon2id for stored passwords (RFC 9106), and a short memory of passwords that were right a moment ago."""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from dataclasses import dataclass

from argon2 import PasswordHasher, Type
from argon2.exceptions import HashingError, InvalidHashError, VerificationError, VerifyMismatchError

from hsm_msl.errors import StoreError, UsageError
from hsm_msl.ports import Clock, RandomBytes
from hsm_msl.wire.fields import trimmed


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Work of one argon2id computation; the default is the second recommendation of RFC 9106 section 4.

    Attributes:
        passes: times the memory is filled.
        memory: KiB filled.
        lanes: parts of the memory filled at the same time, by as many threads.
        concurrency: computations at a time in this process; others wait, so that a burst of log-ins takes
            ``concurrency`` times ``memory`` and not the machine.
    """

    passes: int = 3
    memory: int = 65536
    lanes: int = 4
    concurrency: int = 4


class Passwords:
    """Hashes and checks passwords; white space at both ends does not count, as the protocol trims it.

    Args:
        random: source of salts.
        cost: work per computation. Hashes of another cost still verify.
    """

    def __init__(self, random: RandomBytes, cost: PasswordCost = PasswordCost()) -> None:
        self._random = random
        self._hasher = PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory, parallelism=cost.lanes, type=Type.ID
        )
        self._turns = threading.BoundedSemaphore(cost.concurrency)
        self._decoy = self.hash(random(16).hex())

    def hash(self, password: str) -> str:
        """Return the argon2id text of a password, with a fresh 16-byte salt.

        Raises:
            UsageError: the password is blank.
            StoreError: there was no memory for the computation.
        """
        secret = _bytes(password)
        if not secret:
            raise UsageError("a password must not be blank")
        with self._turns:
            try:
                return self._hasher.hash(secret, salt=self._random(16))
            except HashingError as error:
                raise StoreError(f"argon2: {error}") from None

    def verify(self, stored: str | None, password: str) -> bool:
        """Tell whether the password fits; with nothing stored, do the same work and say no.

        Raises:
            StoreError: the stored text is damaged or there was no memory; no verdict about the password.
        """
        with self._turns:
            try:
                self._hasher.verify(self._decoy if stored is None else stored, _bytes(password))
            except VerifyMismatchError:
                return False
            except (VerificationError, InvalidHashError) as error:
                raise StoreError(f"argon2: {error}") from None
        return stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Tell whether a stored hash was made with another cost than new ones are."""
        return self._hasher.check_needs_rehash(stored)

    def check(self, stored: str) -> None:
        """Refuse text that is no argon2 hash. Raises UsageError."""
        try:
            self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            raise UsageError("the password hash is not an argon2 hash ($argon2id$v=19$...)") from None


class RecentPasswords:
    """Remembers for a short time that a password fitted, for clients that send it with every message.

    Kept are HMAC-SHA256 tags over email, password and stored hash under a key of this object alone, so a changed or
    removed user is never answered from memory. Whoever can read this process's memory can try passwords against the
    tags far faster than against argon2, for those entries: hence off unless asked for.

    Args:
        clock: this server's time.
        random: source of the key.
        seconds: how long one verification is good for.
        entries: how many are kept; the oldest goes first.
    """

    def __init__(self, clock: Clock, random: RandomBytes, *, seconds: float = 60, entries: int = 10_000) -> None:
        self._clock = clock
        self._key = random(32)
        self._seconds = seconds
        self._entries = entries
        self._lock = threading.Lock()
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def holds(self, email: str, password: str, stored: str) -> bool:
        """Tell whether these fitted together less than ``seconds`` ago."""
        tag = self._tag(email, password, stored)
        with self._lock:
            expiry = self._expiry.get(tag)
            if expiry is None:
                return False
            # A clock that was set back must not prolong an entry.
            if not expiry - self._seconds <= self._clock() < expiry:
                del self._expiry[tag]
                return False
            return True

    def remember(self, email: str, password: str, stored: str) -> None:
        """Note that these fit together now."""
        tag = self._tag(email, password, stored)
        with self._lock:
            self._expiry[tag] = self._clock() + self._seconds
            self._expiry.move_to_end(tag)
            while len(self._expiry) > self._entries:
                self._expiry.popitem(last=False)

    def _tag(self, email: str, password: str, stored: str) -> bytes:
        parts = [email.encode("utf-8", "surrogatepass"), _bytes(password), stored.encode("utf-8")]
        message = b"".join(len(part).to_bytes(8) + part for part in parts)
        return hmac.digest(self._key, message, "sha256")


def _bytes(password: str) -> bytes:
    return trimmed(password).encode("utf-8", "surrogatepass")
