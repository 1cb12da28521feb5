"""Time, people and permissions of the MSL test world."""

from __future__ import annotations

from dataclasses import dataclass, field

from hsm_msl.errors import ResponseCode
from hsm_msl.msl.conversation import Message
from hsm_msl.msl.server import Request
from hsm_msl.msl.userauth.base import UserAuthData
from hsm_msl.msl.userauth.email_password import email_password_data

START = 1_700_000_000
RENEWAL_WINDOW = 100
LIFETIME = 200
SERVER = "server1"
PASSWORDS = {"ada@example.org": "correct-horse", "bob@example.org": "battery-staple"}
ADA, BOB = PASSWORDS


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Grants:
    """An ``Authorization`` that permits everything a test has not denied."""

    revoked: set[str] = field(default_factory=set)
    denied_entity_schemes: set[tuple[str, str]] = field(default_factory=set)
    denied_user_schemes: set[tuple[str, str | None]] = field(default_factory=set)
    denied_exchanges: set[tuple[str, str]] = field(default_factory=set)

    def entity_revoked(self, identity: str) -> bool:
        return identity in self.revoked

    def entity_scheme_permitted(self, identity: str, scheme: str) -> bool:
        return (identity, scheme) not in self.denied_entity_schemes

    def user_scheme_permitted(self, identity: str, user: str | None, scheme: str) -> bool:
        return (identity, user) not in self.denied_user_schemes

    def key_exchange_permitted(self, identity: str, scheme: str) -> bool:
        return (identity, scheme) not in self.denied_exchanges


@dataclass
class RevocationList:
    """``Revocations`` by serial number, identity and user."""

    entities: set[str] = field(default_factory=set)
    master_tokens: set[int] = field(default_factory=set)
    user_id_tokens: set[int] = field(default_factory=set)
    users: set[str] = field(default_factory=set)

    def entity_revoked(self, identity: str) -> bool:
        return identity in self.entities

    def master_token_revoked(self, identity: str, serial: int) -> bool:
        return serial in self.master_tokens or identity in self.entities

    def user_id_token_revoked(self, user: str, serial: int) -> bool:
        return serial in self.user_id_tokens or user in self.users


class PasswordList:
    """``Users`` with the passwords of ``PASSWORDS``; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def authenticate(self, email: str, password: str) -> str | None:
        self.asked += 1
        return email if PASSWORDS.get(email) == password else None


class Credentials:
    """A user's authentication data as the client application holds it; remembers each time it was asked for."""

    def __init__(self, email: str = ADA, *, always: bool = False, password: str | None = None) -> None:
        self.email = email
        self.password = PASSWORDS[email] if password is None else password
        self.renewed_password: str | None = self.password
        self.always = always
        self.asked: list[tuple[ResponseCode | None, bool]] = []

    def __call__(self, code: ResponseCode | None, required: bool) -> UserAuthData | None:
        self.asked.append((code, required))
        if code is not None:
            if self.renewed_password is None:
                return None
            self.password = self.renewed_password
        return email_password_data(self.email, self.password) if required or self.always else None


def secret(payload: bytes = b"secret", *, user: Credentials | None = None, non_replayable: bool = False) -> Message:
    """Return a message that must be encrypted and integrity-protected."""
    if user is None:
        return Message(payload, non_replayable=non_replayable)
    return Message(payload, user=user.email, user_auth=user, non_replayable=non_replayable)


def public(payload: bytes = b"public") -> Message:
    """Return a message that needs no protection at all."""
    return Message(payload, encrypted=False, integrity=False)


def echo(request: Request) -> bytes:
    return request.payload


class Inbox:
    """An application that answers every request with its payload, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> bytes:
        self.requests.append(request)
        return request.payload
