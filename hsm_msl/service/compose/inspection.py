"""Composes the keys of an inspection from a key file."""

from __future__ import annotations

import os
from pathlib import Path

from hsm_msl.backend.keyring import KeyState, KeyVersion, PurposeView
from hsm_msl.crypto.asymmetric import SignatureContext
from hsm_msl.crypto.sealing import HostVault
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.crypto.token_keys import TokenKeys
from hsm_msl.errors import ConfigurationError
from hsm_msl.ports import SignatureScheme
from hsm_msl.service.compose.keys import read_public_key, software_keys
from hsm_msl.service.inspection import InspectionKeys
from hsm_msl.service.inspection_keys import InspectionKeysFile, KeyPair
from hsm_msl.toml_document import read_document


def compose_inspection(path: Path | None) -> InspectionKeys:
    """Return the keys an inspection may use.

    Args:
        path: the key file; without one nothing can be verified or opened.

    Raises:
        ConfigurationError: the file cannot be read or something in it is not allowed; names the key.
    """
    random = os.urandom
    vault = HostVault(random)
    if path is None:
        return InspectionKeys(TokenKeys(None, "", random), vault, random)
    document = read_document(path, InspectionKeysFile)

    def context(pair: KeyPair, where: str) -> SymmetricContext:
        keys = software_keys(f"{path}: {where}", bytes.fromhex(pair.encryption), bytes.fromhex(pair.mac))
        return SymmetricContext(keys, "", random)

    versions = [
        KeyVersion(
            f"v{number}",
            KeyState.PRIMARY if number == 1 else KeyState.ACTIVE,
            software_keys(f"{path}: token_keys", bytes.fromhex(pair.encryption), bytes.fromhex(pair.mac)),
        )
        for number, pair in enumerate(document.token_keys, 1)
    ]
    public = {}
    for index, section in enumerate(document.rsa):
        try:
            key = read_public_key(path.parent / section.public_key)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: rsa[{index}].public_key: {error}") from None
        public[section.key_id] = SignatureContext(SignatureScheme.RSA_PKCS1_SHA256, verifying=key)
    return InspectionKeys(
        TokenKeys(PurposeView("msl.token", versions) if versions else None, "", random),
        vault,
        random,
        preshared={pair.identity: context(pair, "psk") for pair in document.psk},
        public=public,
        service={pair.name: context(pair, "service_token_keys") for pair in document.service_token_keys},
        sessions=tuple(context(pair, "session") for pair in document.session),
    )
