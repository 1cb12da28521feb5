"""Opening a token for provisioning: initialisation of a new token, login, and errors in plain words."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pkcs11
from pkcs11 import TokenFlag
from pkcs11.exceptions import AttributeTypeInvalid, PKCS11Error

from hsm_msl.backend.pin import Pin, PinSource
from hsm_msl.backend.pin_memory import FilePinMemory
from hsm_msl.backend.pkcs11.binding import handle_of
from hsm_msl.backend.pkcs11.cryptoki import User
from hsm_msl.backend.pkcs11.errors import code_of, translate
from hsm_msl.backend.pkcs11.login import Login, identity_of
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.errors import BackendConfigurationError, MechanismUnsupportedError
from hsm_provision.token.facts import TokenIdentity

_LABEL_BYTES = 32


@contextlib.contextmanager
def token_errors(doing: str) -> Iterator[None]:
    """Turn errors of the binding into this project's.

    Args:
        doing: what is being done, for people.

    Raises:
        BackendError: some kind of it, by the table of the backend.
        DataRejectedError: the token refused the input.
    """
    try:
        yield
    except AttributeTypeInvalid as error:
        raise MechanismUnsupportedError(
            f"{doing}: the token does not know an attribute of the template (CKR_ATTRIBUTE_TYPE_INVALID); name it in "
            "`unknown_attributes` of [token] in the ceremony"
        ) from error
    except PKCS11Error as error:
        raise translate(error, doing) from error


def token_ready(module: Module, label: str) -> bool:
    """Tell whether an initialised token with this label is present and its user has a PIN.

    Raises:
        BackendUnavailableError: the module cannot list its tokens.
    """
    return any(token.flags & TokenFlag.USER_PIN_INITIALIZED for token in _initialised(module, label))


def initialise_token(module: Module, label: str, so_pin: Pin, user_pin: Pin) -> None:
    """Initialise an empty token and set both PINs. A token that has a user PIN is never touched.

    A token of this label without a user PIN was left by a run that was interrupted in between: it gets its user PIN.

    Args:
        module: the loaded module.
        label: the new token's label, at most 32 bytes.
        so_pin: the security officer's PIN to set.
        user_pin: the user PIN to set.

    Raises:
        BackendConfigurationError: no uninitialised token is present, the label is taken or too long, or a PIN is
            refused.
        BackendUnavailableError: the token fails.
    """
    padded = label.encode().ljust(_LABEL_BYTES)
    if len(padded) > _LABEL_BYTES:
        raise BackendConfigurationError(f"token label {label!r} is longer than {_LABEL_BYTES} bytes")
    if token_ready(module, label):
        raise BackendConfigurationError(f"a token labelled {label!r} exists already; it was not touched")
    officer = so_pin.reveal()
    try:
        user = user_pin.reveal().decode()
    except UnicodeDecodeError:
        raise BackendConfigurationError(f"the user PIN for token {label!r} is not UTF-8 text") from None
    if not _initialised(module, label):
        empty = [token for token in module.tokens() if not token.flags & TokenFlag.TOKEN_INITIALIZED]
        if not empty:
            raise BackendConfigurationError("no uninitialised token is present; insert or free one")
        with _pin_errors(label, "security officer"), token_errors(f"initialising token {label!r}"):
            module.cryptoki.call(
                "C_InitToken",
                ctypes.c_ulong(empty[-1].slot.slot_id),
                ctypes.cast(ctypes.create_string_buffer(officer, len(officer)), ctypes.c_void_p),
                ctypes.c_ulong(len(officer)),
                ctypes.cast(ctypes.create_string_buffer(padded, _LABEL_BYTES), ctypes.c_void_p),
            )
    with token_errors(f"setting the user PIN of {label!r}"):
        session = module.token(label=label).open(rw=True)
        try:
            with _pin_errors(label, "security officer"):
                module.cryptoki.login(handle_of(session), User.SECURITY_OFFICER, officer)
            with _pin_errors(label, "user"):
                session.init_pin(user)
            module.cryptoki.logout(handle_of(session))
        finally:
            module.cryptoki.close_session(handle_of(session))


_PIN_REFUSALS = {
    0xA0: "is wrong",
    0xA1: "has characters the token does not take",
    0xA2: "is too short or too long for the token",
    0xA4: "is locked; the token can only be initialised anew",
}
"""What a token may say of a PIN (CKR_PIN_INCORRECT, _INVALID, _LEN_RANGE, _LOCKED)."""


@contextlib.contextmanager
def _pin_errors(label: str, whose: str) -> Iterator[None]:
    """Say which of two PINs a token refused, and why. Raises BackendConfigurationError."""
    try:
        yield
    except PKCS11Error as error:
        reason = _PIN_REFUSALS.get(code_of(error))
        if reason is None:
            raise
        raise BackendConfigurationError(f"the {whose} PIN for token {label!r} {reason}") from None


def _initialised(module: Module, label: str) -> list[pkcs11.Token]:
    return [token for token in module.tokens() if token.label == label and token.flags & TokenFlag.TOKEN_INITIALIZED]


@contextlib.contextmanager
def logged_in(
    module: Module, label: str, serial: str | None, pin: PinSource, refused: Path | None = None
) -> Iterator[tuple[TokenIdentity, pkcs11.Session]]:
    """Hold a logged-in read/write session for the length of a ``with`` block.

    A login that other code of this process holds already is used and left alone; the PIN is then not read.

    Args:
        module: the loaded module.
        label: the token's label.
        serial: its serial number, or None for any.
        pin: gives the user PIN, which is tried once.
        refused: directory in which a refused PIN is remembered for later runs; None for this one only.

    Returns:
        What the token says of itself, and the binding's session.

    Raises:
        BackendConfigurationError: no such token, several, or its PIN is wrong, expired or locked.
        BackendUnavailableError: the token fails.
    """
    token = module.token(label=label, serial=serial)
    memory = None if refused is None else FilePinMemory(refused, identity_of(token))
    login = Login(module, token, pin, memory=memory)
    with token_errors(f"opening a session on {label!r}"):
        session = token.open(rw=True)
    try:
        with token_errors(f"asking {label!r} for its login"):
            ours = not module.cryptoki.session_info(handle_of(session)).user_logged_in
        if ours:
            login.ensure()
        identity = TokenIdentity(
            label=token.label,
            serial=token.serial.decode(errors="replace").strip(),
            manufacturer=token.manufacturer_id,
            model=token.model,
        )
        yield identity, session
    finally:
        # Never through the binding: its close() would log the whole process out.
        with contextlib.suppress(PKCS11Error):
            module.cryptoki.close_session(handle_of(session))
        login.close()
