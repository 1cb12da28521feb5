"""DIFFIE_HELLMAN: session keys from a classic agreement in a named group (msl-schemes section 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hsm_msl.errors import DataRejectedError, ErrorCode, MslError, UsageError
from hsm_msl.msl.keyx.base import Answer, KeyRequest, PendingKeyRequest, Requester
from hsm_msl.msl.keyx.dh_group import DhGroup, decode_group, encode_group
from hsm_msl.ports import AgreementKey, EphemeralKeys, SessionVault, SymmetricKeys
from hsm_msl.wire import binary, fields

NAME = "DIFFIE_HELLMAN"


@dataclass(frozen=True, slots=True)
class DhValue:
    """What travels in either direction: the group's ID, a public value as received, and the group if it was sent."""

    parameters_id: str
    public_value: bytes
    group: DhGroup | None = None


def normal_form(value: bytes) -> bytes:
    """Strip all leading zero bytes and prepend exactly one (msl-schemes section 7.1)."""
    return b"\x00" + value.lstrip(b"\x00")


@dataclass(frozen=True, slots=True)
class DiffieHellman:
    """The DIFFIE_HELLMAN scheme.

    Attributes:
        groups: agreed groups by parameters ID.
        ephemeral: makes one-time keys.
        vault: splits the digest into session keys.
        admits: tells whether a group that a requester sent may be used; None goes by agreed groups alone, as every
            other stack does. Sending the group in ``parameters`` is an extension that others ignore.
    """

    groups: Mapping[str, DhGroup]
    ephemeral: EphemeralKeys
    vault: SessionVault
    admits: Callable[[DhGroup], bool] | None = None
    name: str = NAME

    def parse_request(self, keydata: Mapping[str, Any]) -> KeyRequest:
        """Read a request.

        Raises:
            MslError: MSL_PARSE_ERROR, KEYX_INVALID_PUBLIC_KEY for an empty value; where groups may be sent,
                INVALID_ALGORITHM_PARAMS for one that does not parse.
        """
        value = self.parse_response(keydata)
        if self.admits is not None and value.parameters_id not in self.groups:
            sent = fields.optional_binary(keydata, "parameters")
            value = replace(value, group=None if sent is None else decode_group(sent))
        return KeyRequest(NAME, keydata, value)

    def parse_response(self, keydata: Mapping[str, Any]) -> DhValue:
        """Read a response. Raises MslError MSL_PARSE_ERROR, KEYX_INVALID_PUBLIC_KEY for an empty value."""
        parameters_id = fields.string(keydata, "parametersid")
        value = fields.binary(keydata, "publickey")
        if not value:
            raise MslError(ErrorCode.KEYX_INVALID_PUBLIC_KEY)
        return DhValue(parameters_id, value)

    def request(self, parameters_id: str, group: DhGroup | None = None) -> PendingKeyRequest:
        """Make a request with a fresh key of the group.

        Args:
            parameters_id: the group's ID.
            group: a group to send along, for an issuer that does not know the ID but admits the group.

        Raises:
            MslError: UNKNOWN_KEYX_PARAMETERS_ID, INVALID_ALGORITHM_PARAMS for a group no key can be made in.
            BackendError: no key could be made.
        """
        key, keydata = self._fresh(parameters_id, group or self._agreed(parameters_id))
        if group is not None:
            keydata["parameters"] = binary.encode(encode_group(group))
        value = replace(self.parse_response(keydata), group=group)
        return PendingKeyRequest(KeyRequest(NAME, keydata, value), key)

    def answer(self, request: KeyRequest, requester: Requester) -> Answer:  # noqa: ARG002 - nobody's keys take part
        """Agree with a fresh key of the requester's group.

        Raises:
            MslError: UNKNOWN_KEYX_PARAMETERS_ID, INVALID_ALGORITHM_PARAMS for a group no key can be made in,
                KEYX_INVALID_PUBLIC_KEY for a value outside 2 to p - 2.
            KeyPolicyError: session keys may not pass through this process.
        """
        value = request.parsed
        if not isinstance(value, DhValue):
            raise UsageError("not a DIFFIE_HELLMAN request")
        group = value.group
        if group is None or self.admits is None or not self.admits(group):
            group = self._agreed(value.parameters_id)
        key, keydata = self._fresh(value.parameters_id, group)
        return Answer(keydata, self._agree(key, value, group))

    def accept(self, pending: PendingKeyRequest, response: object) -> SymmetricKeys | None:
        """Agree with the key of our request. Raises MslError KEYX_PRIVATE_KEY_MISSING, KEYX_INVALID_PUBLIC_KEY."""
        asked = pending.request.parsed
        if not isinstance(response, DhValue) or not isinstance(asked, DhValue):
            return None
        if response.parameters_id != asked.parameters_id:
            return None
        if not isinstance(pending.secret, AgreementKey):
            raise MslError(ErrorCode.KEYX_PRIVATE_KEY_MISSING)
        return self._agree(pending.secret, response, asked.group or self._agreed(asked.parameters_id))

    def _agreed(self, parameters_id: str) -> DhGroup:
        group = self.groups.get(parameters_id)
        if group is None:
            raise MslError(ErrorCode.UNKNOWN_KEYX_PARAMETERS_ID)
        return group

    def _fresh(self, parameters_id: str, group: DhGroup) -> tuple[AgreementKey, dict[str, object]]:
        try:
            key = self.ephemeral.agreement(group.prime, group.generator)
        except DataRejectedError:
            raise MslError(ErrorCode.INVALID_ALGORITHM_PARAMS) from None
        return key, {
            "publickey": binary.encode(normal_form(key.public_value)),
            "parametersid": parameters_id,
        }

    def _agree(self, key: AgreementKey, peer: DhValue, group: DhGroup) -> SymmetricKeys:
        value = int.from_bytes(peer.public_value)
        # 0, 1 and p - 1 give a secret anyone can compute.
        if not 2 <= value <= group.prime - 2:
            raise MslError(ErrorCode.KEYX_INVALID_PUBLIC_KEY)
        try:
            secret = key.agree(value.to_bytes(group.size))
        except DataRejectedError:
            raise MslError(ErrorCode.KEYX_INVALID_PUBLIC_KEY) from None
        return self.vault.derive(hashlib.sha384(normal_form(secret)).digest())
