"""The key file of ``hsm-msl inspect``: keys somebody holds in the clear, to look into recorded messages (values)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hsm_msl.service.sections import Name, Section

HexKey = Annotated[str, msgspec.Meta(pattern="^(?:[0-9A-Fa-f]{2})+$")]


class KeyPair(Section, frozen=True, kw_only=True):
    """An AES key and a MAC key, in hexadecimal."""

    encryption: HexKey
    mac: HexKey


class PresharedKeyPair(KeyPair, frozen=True, kw_only=True):
    """``[[psk]]``: the keys shared with one entity."""

    identity: Name


class ServiceKeyPair(KeyPair, frozen=True, kw_only=True):
    """``[[service_token_keys]]``: the keys of service tokens of a name; an empty name is for all others."""

    name: str = ""


class PublicKeyFile(Section, frozen=True, kw_only=True):
    """``[[rsa]]``: an RSA public key, in a PEM or DER file."""

    key_id: Name
    public_key: Name


class InspectionKeysFile(Section, frozen=True, kw_only=True):
    """A whole key file.

    Attributes:
        token_keys: keys of master and user ID tokens; several where they were rotated.
        psk: keys shared with entities.
        rsa: public keys.
        service_token_keys: keys of service tokens.
        session: session keys, for messages whose master token cannot be opened.
    """

    token_keys: tuple[KeyPair, ...] = ()
    psk: tuple[PresharedKeyPair, ...] = ()
    rsa: tuple[PublicKeyFile, ...] = ()
    service_token_keys: tuple[ServiceKeyPair, ...] = ()
    session: tuple[KeyPair, ...] = ()
