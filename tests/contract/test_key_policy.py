"""Which keys may serve: attributes read and tried out on a real token, the fault named, the key refused.

Field notes M6-M8: a key with default attributes wraps, decrypts and signs; one such key opened another's 32 bytes in
host memory in 24 calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag

from hsm_msl.backend.pkcs11 import policy, session_keys
from hsm_msl.backend.pkcs11.policy import Role
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.errors import BackendConfigurationError, KeyNotFoundError, KeyPolicyError, UsageError
from hsm_msl.ports import MacAlgorithm
from key_backends import rsa_pair
from token_fixture import CIPHER, MAC, WRAP, KeyMaker

Open = Callable[[Token, str], object]

ROLES: dict[str, tuple[Open, tuple[Attribute, ...]]] = {
    "aes": (lambda token, label: token.aes_key(label), CIPHER),
    "cmac": (lambda token, label: token.mac_key(label, MacAlgorithm.AES_CMAC), MAC),
    "wrapping": (lambda token, label: token.wrapping_key(label), WRAP),
}
USES = {"CKA_WRAP": Attribute.WRAP, "CKA_UNWRAP": Attribute.UNWRAP, "CKA_DECRYPT": Attribute.DECRYPT}
USES |= {"CKA_ENCRYPT": Attribute.ENCRYPT, "CKA_SIGN": Attribute.SIGN, "CKA_DERIVE": Attribute.DERIVE}


@pytest.mark.parametrize("role", ROLES)
def test_a_key_for_one_purpose_serves(hsm_token: Token, keys: KeyMaker, role: str) -> None:
    open_key, uses = ROLES[role]
    assert open_key(hsm_token, keys.aes(bytes(16), uses))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("excess", USES)
def test_a_key_that_may_do_more_is_refused_by_name(hsm_token: Token, keys: KeyMaker, role: str, excess: str) -> None:
    open_key, uses = ROLES[role]
    if USES[excess] in uses:
        fewer = keys.aes(bytes(16), tuple(use for use in uses if use is not USES[excess]))
        if role == "cmac":  # a tag is checked by making it again
            with pytest.raises(KeyPolicyError, match="it needs CKA_SIGN"):
                open_key(hsm_token, fewer)
        else:
            assert open_key(hsm_token, fewer), "one of the two uses is enough"
        return
    with pytest.raises(KeyPolicyError, match=f"{excess} must be false"):
        open_key(hsm_token, keys.aes(bytes(16), (*uses, USES[excess])))


@pytest.mark.parametrize("role", ROLES)
def test_a_key_of_another_purpose_is_refused(hsm_token: Token, keys: KeyMaker, role: str) -> None:
    open_key, uses = ROLES[role]
    other = next(other for _, other in ROLES.values() if other != uses)
    with pytest.raises(KeyPolicyError, match="it needs"):
        open_key(hsm_token, keys.aes(bytes(16), other))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sensitive": False}, "CKA_SENSITIVE must be true"),
        ({"extractable": True}, "CKA_EXTRACTABLE must be false"),
        ({"sensitive": False, "extractable": True}, "the token hands out its value"),
    ],
)
def test_a_key_that_could_leave_is_refused(
    hsm_token: Token, keys: KeyMaker, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(KeyPolicyError, match=told):
        hsm_token.aes_key(keys.aes(bytes(16), CIPHER, **changes))


def test_rsa_keys_sign_or_decrypt_or_unwrap(hsm_token: Token, keys: KeyMaker) -> None:
    """One RSA key for two purposes turns one protocol into an oracle for the other."""
    opens = {
        Attribute.SIGN: hsm_token.signing_key,
        Attribute.DECRYPT: hsm_token.decryption_key,
        Attribute.UNWRAP: hsm_token.unwrapping_key,
    }
    for use, open_key in opens.items():
        assert open_key(keys.rsa(rsa_pair(), (use,)))
        for other in set(opens) - {use}:
            with pytest.raises(KeyPolicyError):
                open_key(keys.rsa(rsa_pair(), (other,)))
            with pytest.raises(KeyPolicyError, match=f"CKA_{other.name} must be false"):
                open_key(keys.rsa(rsa_pair(), (use, other)))
    with pytest.raises(KeyPolicyError, match="hands out its value"):
        hsm_token.signing_key(keys.rsa(rsa_pair(), (Attribute.SIGN,), sensitive=False, extractable=True))


def test_the_wrong_type_is_refused(hsm_token: Token, keys: KeyMaker) -> None:
    with pytest.raises(KeyPolicyError, match="its type is GENERIC_SECRET, not AES"):
        hsm_token.aes_key(keys.hmac(bytes(32)))
    with pytest.raises(KeyPolicyError, match="its type is AES"):
        hsm_token.mac_key(keys.aes(bytes(16), MAC))


def test_a_name_must_mean_one_key(hsm_token: Token, keys: KeyMaker) -> None:
    """Labels are not unique on a token (field notes M16, F9)."""
    label = keys.aes(bytes(16), id=b"first")
    keys.aes(bytes(16), id=b"second", label=label)
    with pytest.raises(BackendConfigurationError, match="2 objects"):
        hsm_token.aes_key(label)
    assert hsm_token.aes_key(label, id=b"first").encrypt_ecb(bytes(16))
    assert hsm_token.aes_key(id=b"second").encrypt_ecb(bytes(16))
    with pytest.raises(KeyNotFoundError):
        hsm_token.aes_key(label, id=b"third")
    with pytest.raises(UsageError):
        hsm_token.aes_key()


def test_attributes_that_change_while_we_run_are_seen(hsm_token: Token, keys: KeyMaker) -> None:
    """A modifiable key can be given more uses later (field notes M11); every fresh handle is looked at again."""
    label = keys.aes(b"\x01" * 16)
    key = hsm_token.aes_key(label)
    with keys.session() as session:
        (found,) = session.get_objects({Attribute.LABEL: label})
        found[Attribute.WRAP] = True
    hsm_token.connection.pool.renew()  # as any recovery does
    with pytest.raises(KeyPolicyError, match="CKA_WRAP must be false"):
        key.encrypt_ecb(bytes(16))


@pytest.mark.parametrize("extractable", [False, True])
def test_session_keys_are_as_they_were_asked_for(hsm_token: Token, keys: KeyMaker, extractable: bool) -> None:
    """Without a template SoftHSMv2 makes an unwrapped key that is not sensitive (field notes M8)."""
    kek = hsm_token.wrapping_key(keys.aes(bytes(16), WRAP))
    key = hsm_token.generate_aes(16) if extractable else kek.unwrap_aes(kek.wrap(bytes(16)))
    handle = key.target.call(lambda handle: handle)
    assert not policy.exposure(handle)[1:]
    assert policy.exposure(handle) == (["CKA_EXTRACTABLE must be false"] if extractable else [])
    asked = session_keys.template(session_keys.DATA_KEY, extractable=extractable)
    assert handle.get_attributes(list(asked)) == asked
    with pytest.raises(pkcs11.AttributeSensitive):
        _ = handle[Attribute.VALUE]


class Forgetful:
    """A handle of a token that ignores the template, as openCryptoki does (field notes section 1.6).

    Attributes:
        stubborn: it also ignores attributes set afterwards.
    """

    def __init__(self, stubborn: bool) -> None:
        self.stubborn = stubborn
        self.destroyed = False
        self.attributes = session_keys.template(session_keys.DATA_KEY, extractable=True)
        self.attributes[Attribute.SENSITIVE] = False

    def get_attributes(self, names: list[Attribute]) -> dict[Attribute, Any]:
        return {name: self.attributes[name] for name in names}

    def __setitem__(self, name: Attribute, value: object) -> None:
        if not self.stubborn:
            self.attributes[name] = value

    def destroy(self) -> None:
        self.destroyed = True


def test_a_token_that_ignores_the_template_is_corrected_or_refused() -> None:
    forgetful = Forgetful(stubborn=False)
    assert session_keys.enforce(forgetful, session_keys.DATA_KEY, extractable=False) is forgetful
    assert forgetful.attributes[Attribute.SENSITIVE] is True
    assert forgetful.attributes[Attribute.EXTRACTABLE] is False
    stubborn = Forgetful(stubborn=True)
    with pytest.raises(KeyPolicyError, match="CKA_EXTRACTABLE, CKA_SENSITIVE"):
        session_keys.enforce(stubborn, session_keys.DATA_KEY, extractable=False)
    assert stubborn.destroyed


def test_only_keys_made_to_leave_are_wrapped(hsm_token: Token, keys: KeyMaker) -> None:
    """Neither a key on the token nor an unwrapped one leaves; a made one does, and comes back as itself."""
    kek = hsm_token.wrapping_key(keys.aes(bytes(16), WRAP))
    for kept in (hsm_token.aes_key(keys.aes(bytes(16))), kek.unwrap_aes(kek.wrap(bytes(16)))):
        with pytest.raises(KeyPolicyError):
            kek.wrap_key(kept)
    made, made_mac = hsm_token.generate_aes(16), hsm_token.generate_mac(32)
    assert kek.unwrap_aes(kek.wrap_key(made)).encrypt_ecb(bytes(16)) == made.encrypt_ecb(bytes(16))
    again = kek.unwrap_mac(kek.wrap_key(made_mac), MacAlgorithm.HMAC_SHA256)
    assert again.verify(b"data", made_mac.sign(b"data"))


def test_roles_never_join_wrapping_with_reading() -> None:
    """The rule behind the table: no role lets a key both carry keys and show what it carried."""
    reading, carrying = {Attribute.DECRYPT, Attribute.ENCRYPT}, {Attribute.WRAP, Attribute.UNWRAP}
    roles = [role for role in vars(policy).values() if isinstance(role, Role)]
    assert len(roles) >= 8
    for role in roles:
        assert not (role.uses & reading and role.uses & carrying), role.name
        assert not (role.uses & {Attribute.SIGN} and role.uses & (reading | carrying)), role.name
        assert role.key_types <= set(KeyType)
    assert not session_keys.DATA_KEY & (MechanismFlag.WRAP | MechanismFlag.UNWRAP)
