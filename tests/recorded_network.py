"""Our server and client in the roles of a recording: the recorded long-term keys, the recorded clock."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from functools import cache
from typing import Protocol

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from hsm_msl.backend.software import (
    SoftwareAesKey,
    SoftwareEphemeralKeys,
    SoftwareSigningKey,
    SoftwareWrappingKey,
    software_mac_key,
)
from hsm_msl.crypto.public_key import PublicKey
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.msl.context import MslContext
from hsm_msl.msl.entityauth.base import EntityAuthScheme, LocalEntity
from hsm_msl.msl.entityauth.none_suffixed import NoneSuffixedScheme
from hsm_msl.msl.entityauth.psk import PskScheme
from hsm_msl.msl.entityauth.psk_profile import PskProfileScheme
from hsm_msl.msl.entityauth.rsa import RsaScheme, rsa_data
from hsm_msl.msl.entityauth.unauthenticated import NoneScheme
from hsm_msl.msl.keyx.base import KeyExchanges
from hsm_msl.msl.keyx.defaults import PREFERENCE, ExchangeParts, key_exchanges
from hsm_msl.msl.keyx.dh_group import DhGroup
from hsm_msl.msl.message.capabilities import Capabilities
from hsm_msl.msl.tokens.issuer import TokenIssuer, TokenPolicy
from hsm_msl.msl.tokens.master_token import MasterTokens, TokenCache
from hsm_msl.msl.tokens.user_id_token import UserIdTokens
from hsm_msl.msl.userauth.email_password import EmailPasswordScheme
from hsm_msl.ports import MacAlgorithm, SigningKey, SymmetricKeys, WrappingKey
from hsm_msl.stores.memory import MemoryRenewalStore, MemoryReplayStore
from msl_keys import Lookup, Ring
from msl_world import Grants, RevocationList
from recorded_exchange import Recording

USERS = {"ada@example.org": "correct-horse-battery"}
CAPABILITIES = Capabilities(("GZIP", "LZW"), ("en-US",))


class KeyHome(Protocol):
    """Where the long-term keys of a recording are put before use."""

    def symmetric(self, name: str, encryption: bytes, mac: bytes, wrapping: bytes | None) -> SymmetricKeys:
        """Return handles of these keys."""

    def signing(self, name: str, pkcs8: bytes) -> SigningKey:
        """Return a handle of this RSA key."""


class SoftwareHome:
    """Keys in this process."""

    def symmetric(self, name: str, encryption: bytes, mac: bytes, wrapping: bytes | None) -> SymmetricKeys:
        return SymmetricKeys(
            SoftwareAesKey(encryption),
            software_mac_key(mac, MacAlgorithm.HMAC_SHA256),
            None if wrapping is None else SoftwareWrappingKey(wrapping),
            name,
        )

    def signing(self, name: str, pkcs8: bytes) -> SigningKey:
        return _signing(pkcs8)


@cache
def _signing(pkcs8: bytes) -> SigningKey:
    """Load a key once: its checks take longer than an exchange."""
    return SoftwareSigningKey(pkcs8)


class RecordedUsers:
    """The one user of the recordings."""

    def authenticate(self, email: str, password: str) -> str | None:
        return email if USERS.get(email) == password else None


@cache
def public_half(pkcs8_base64: str) -> PublicKey:
    """Return the public half of a private key as trusted key."""
    key = load_der_private_key(base64.b64decode(pkcs8_base64), None)
    return PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def client_key_id(recording: Recording) -> str | None:
    """Return the key ID an RSA client names, as its requests do."""
    authdata = recording.pairs[0]["request"].get("entityauthdata", {}).get("authdata", {})
    return authdata.get("pubkeyid")


def exchanges(
    recording: Recording,
    vault: HostVault,
    *,
    issuer: tuple[Ring, PskScheme] | None = None,
    own: WrappingKey | None = None,
) -> KeyExchanges:
    """Return every key exchange scheme with the recording's group, in the reference's order of preference."""
    secrets = recording.secrets
    groups = {}
    if "dh_p_hex" in secrets:
        groups[secrets["dh_parametersid"]] = DhGroup(int(secrets["dh_p_hex"], 16), int(secrets["dh_g_hex"], 16))
    return key_exchanges(
        PREFERENCE,
        ExchangeParts(
            vault,
            os.urandom,
            SoftwareEphemeralKeys(os.urandom),
            groups,
            ring=None if issuer is None else issuer[0],
            psk=None if issuer is None else issuer[1],
            own=own,
        ),
    )


def preshared_keys(recording: Recording, home: KeyHome) -> SymmetricKeys | None:
    """Return the keys the recorded client shares with the server, if it does."""
    if "psk_enc_key_hex" not in recording.secrets:
        return None
    values = (bytes.fromhex(recording.secrets[f"psk_{name}_key_hex"]) for name in ("enc", "hmac", "wrap"))
    return home.symmetric(f"psk.{recording.data['entity_identity']}", *values)


def server_context(recording: Recording, home: KeyHome, clock: Callable[[], float]) -> MslContext:
    """Return the reference server's place: its token, identity, pre-shared and service token keys."""
    secrets = recording.secrets

    def key(name: str) -> bytes:
        return bytes.fromhex(secrets[name])

    random = os.urandom
    ring = Ring(
        home.symmetric(
            "msl.token", key("msl_token_enc_key_hex"), key("msl_token_hmac_key_hex"), key("msl_token_wrap_key_hex")
        )
    )
    token_keys = TokenKeys(ring, "server1", random)
    vault = HostVault(random)
    master_tokens = MasterTokens(token_keys, vault, random, TokenCache(100))
    user_id_tokens = UserIdTokens(token_keys, TokenCache(100))
    grants = Grants()
    key_id = secrets["server_rsa_pubkeyid"]
    signing = home.signing("identity.rsa", base64.b64decode(secrets["server_rsa_pkcs8_b64"]))
    trusted = Lookup({key_id: PublicKey(signing.public_key)})
    their_id = client_key_id(recording)
    if their_id is not None:
        trusted = Lookup(
            {key_id: PublicKey(signing.public_key), their_id: public_half(secrets["client_rsa_pkcs8_b64"])}
        )
    preshared = {}
    shared = preshared_keys(recording, home)
    if shared is not None:
        preshared[recording.data["entity_identity"]] = shared
    if recording.data["entity_auth"] == "RSA":
        # The reference's example server lets each entity authenticate by one scheme only.
        grants.denied_entity_schemes.add((recording.data["entity_identity"], "PSK"))
    rsa_scheme = RsaScheme(Lookup(trusted), grants, key_id, signing)
    psk = PskScheme(Lookup(preshared), grants, random)
    schemes: dict[str, EntityAuthScheme] = {
        "PSK": psk,
        "PSK_PROFILE": PskProfileScheme(Lookup(preshared), grants, random),
        "RSA": rsa_scheme,
        "NONE": NoneScheme(grants),
        "NONE_SUFFIXED": NoneSuffixedScheme(grants),
    }
    service = home.symmetric(
        "service.st_default1", key("service_token_enc_key_hex"), key("service_token_hmac_key_hex"), None
    )
    local = rsa_data("server1", key_id)
    return MslContext(
        local=LocalEntity(local, rsa_scheme.context(local), encrypts=False, protects_integrity=True),
        entity_schemes=schemes,
        user_schemes={"EMAIL_PASSWORD": EmailPasswordScheme(RecordedUsers(), grants)},
        key_exchanges=exchanges(recording, vault, issuer=(ring, psk)),
        authorization=grants,
        token_keys=token_keys,
        master_tokens=master_tokens,
        user_id_tokens=user_id_tokens,
        issuer=TokenIssuer(
            master_tokens,
            user_id_tokens,
            TokenPolicy(renewal_window=1, lifetime=3600),
            clock=clock,
            random=random,
            replays=MemoryReplayStore(),
            renewals=MemoryRenewalStore(),
            revocations=RevocationList(),
        ),
        vault=vault,
        clock=clock,
        random=random,
        capabilities=CAPABILITIES,
        service_token_keys={"": SymmetricContext(service, "st_default1", random)},
        service_token_cache=TokenCache(100),
    )


def client_context(recording: Recording, home: KeyHome, clock: Callable[[], float]) -> MslContext:
    """Return the recorded client's place, far enough to read the answers it got."""
    secrets = recording.secrets
    random = os.urandom
    grants = Grants()
    token_keys = TokenKeys(None, "", random)
    vault = HostVault(random)
    shared = preshared_keys(recording, home)
    server_key = public_half(secrets["server_rsa_pkcs8_b64"])
    schemes: dict[str, EntityAuthScheme] = {
        "RSA": RsaScheme(Lookup({secrets["server_rsa_pubkeyid"]: server_key}), grants),
        "NONE": NoneScheme(grants),
    }
    none = NoneScheme(grants).parse({"identity": recording.data["entity_identity"]})
    return MslContext(
        # Replies never depend on how this client authenticated itself, only on its identity.
        local=LocalEntity(none, NoneScheme(grants).context(none), encrypts=False, protects_integrity=False),
        entity_schemes=schemes,
        user_schemes={},
        key_exchanges=exchanges(recording, vault, own=None if shared is None else shared.wrapping),
        authorization=grants,
        token_keys=token_keys,
        master_tokens=MasterTokens(token_keys, vault, random, TokenCache(0)),
        user_id_tokens=UserIdTokens(token_keys, TokenCache(0)),
        issuer=None,
        vault=vault,
        clock=clock,
        random=random,
        capabilities=CAPABILITIES,
        service_token_keys={},
    )
