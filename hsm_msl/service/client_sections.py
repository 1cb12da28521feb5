"""Sections of a client's configuration: whom it speaks to, for whom and how (values only)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hsm_msl.service.key_sections import KeyFiles
from hsm_msl.service.sections import Count, Name, Section


class UserSection(Section, frozen=True, kw_only=True):
    """``[user]`` of a client: for whom it speaks."""

    email: Name
    password: Name


class CredentialsSection(Section, frozen=True, kw_only=True):
    """``[credentials]`` of a client: the same by a user authentication scheme of the network's own.

    Attributes:
        scheme: the scheme's name on the wire.
        name: what this client calls the user, to find the user's tokens again.
        strings: the scheme's strings by their names, each from a source like a password's.
    """

    scheme: Name
    name: Name
    strings: Annotated[dict[Name, Name], msgspec.Meta(min_length=1)]


class KeyExchangeOffer(Section, frozen=True, kw_only=True):
    """``[key_exchange]`` of a client: what it offers.

    Attributes:
        schemes: key exchanges to offer, all at once; the server chooses.
        dh_group: parameters ID for DIFFIE_HELLMAN, one of ``[dh_groups]``.
        rsa_mechanism: mechanism for ASYMMETRIC_WRAPPED.
        renew_after_messages: ask for new session keys after this many messages; 0 for never. A server may decline
            before the token's renewal window, and is then asked again after as many more.
    """

    schemes: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)] = ("DIFFIE_HELLMAN",)
    dh_group: Name = "1"
    rsa_mechanism: Name = "JWK_RSA"
    renew_after_messages: Count = 0


class StateSection(Section, frozen=True, kw_only=True):
    """``[state]`` of a client: where its tokens and counters are kept between runs.

    Attributes:
        database: ``memory`` forgets them when the program ends.
        profile: names this client and its network, where several share a database.
        files: the keys that session keys are sealed with, in files.
        token: the same, in the token of this name.
        label: how the token objects are called.

    With neither ``files`` nor ``token``, session keys are not kept and every run begins with a new session.
    """

    database: Name = "memory"
    profile: Name = "default"
    files: KeyFiles | None = None
    token: Name | None = None
    label: Annotated[str, msgspec.Meta(pattern=r"\{role\}")] = "client.state.{role}.v1"


class OwnServiceTokenKeys(Section, frozen=True, kw_only=True):
    """``[[service_token_keys]]`` of a client: the keys that protect service tokens of a name.

    Attributes:
        name: the service tokens' name; an empty one is for all others.
        files: the keys in files.
        token: name of the token that holds them instead; may be left out where there is one token only.
        label: how the token objects are called.
    """

    name: str = ""
    files: KeyFiles | None = None
    token: Name | None = None
    label: Annotated[str, msgspec.Meta(pattern=r"\{role\}")] = "client.service.{role}.v1"


class MessageSection(Section, frozen=True, kw_only=True):
    """``[message]`` of a client: how its messages are protected."""

    encrypted: bool = True
    integrity: bool = True
    non_replayable: bool = False


class RemoteSection(Section, frozen=True, kw_only=True):
    """``[server]`` of a client.

    Attributes:
        identity: identity the server must authenticate as; any trusted one when left out.
        timeout: seconds to wait for each answer.
    """

    identity: Name | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0
