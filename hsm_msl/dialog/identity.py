"""The local service: its name, certificates and key handles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm_msl.dialog.headers import NOTHING_PRESENTED, Certificates
from hsm_msl.ports import AgreementKey, SigningKey, WrappingKey
from hsm_msl.ports.dialog import ExchangeKeys, ResidentKeys, UnwrappingKey


@dataclass(frozen=True, slots=True)
class LocalService:
    """One service with its keys (dialog section 2).

    Args:
        name: URI-like name, up to 255 bytes, compared byte-wise.
        instance: 16 random bytes that tell two deployments of one service apart.
        signing_key: signs pair headers.
        signing_cert: SHA-256 of its certificate.
        encryption_keys: private keys that open key exchange keys, by SHA-256 of their certificates; retired ones
            stay here as long as headers encrypted to them must open.
        encryption_cert: SHA-256 of the certificate peers must use now.
        exchange: makes key exchange keys.
        storage: wraps what rests in the store.
        resident: makes session keys that stay in the token; None keeps them in this process.
        presented: the current certificates, shown to peers that trust issuers.
    """

    name: str
    instance: bytes
    signing_key: SigningKey
    signing_cert: bytes
    encryption_keys: Mapping[bytes, UnwrappingKey | AgreementKey]
    encryption_cert: bytes
    exchange: ExchangeKeys
    storage: WrappingKey
    resident: ResidentKeys | None = None
    presented: Certificates = NOTHING_PRESENTED
