"""Opening a token for provisioning: initialisation of a new token, login, and errors in plain words."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import pkcs11
from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error

from hsm_msl.backend.pin import Pin, PinSource
from hsm_msl.backend.pkcs11.binding import handle_of
from hsm_msl.backend.pkcs11.cryptoki import User
from hsm_msl.backend.pkcs11.errors import translate
from hsm_msl.backend.pkcs11.login import Login
from hsm_msl.backend.pkcs11.module import Module
from hsm_msl.errors import BackendConfigurationError
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
    except PKCS11Error as error:
        raise translate(error, doing) from error


def token_present(module: Module, label: str) -> bool:
    """Tell whether an initialised token with this label is present.

    Raises:
        BackendUnavailableError: the module cannot list its tokens.
    """
    return any(token.label == label for token in module.tokens() if token.flags & TokenFlag.TOKEN_INITIALIZED)


def initialise_token(module: Module, label: str, so_pin: Pin, user_pin: Pin) -> None:
    """Initialise an empty token and set both PINs. A token that is initialised is never touched.

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
    if token_present(module, label):
        raise BackendConfigurationError(f"a token labelled {label!r} exists already; it was not touched")
    empty = [token for token in module.tokens() if not token.flags & TokenFlag.TOKEN_INITIALIZED]
    if not empty:
        raise BackendConfigurationError("no uninitialised token is present; insert or free one")
    officer = so_pin.reveal()
    with token_errors(f"initialising token {label!r}"):
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
            module.cryptoki.login(handle_of(session), User.SECURITY_OFFICER, officer)
            session.init_pin(user_pin.reveal().decode())
            module.cryptoki.logout(handle_of(session))
        finally:
            module.cryptoki.close_session(handle_of(session))


@contextlib.contextmanager
def logged_in(
    module: Module, label: str, serial: str | None, pin: PinSource
) -> Iterator[tuple[TokenIdentity, pkcs11.Session]]:
    """Hold a logged-in read/write session for the length of a ``with`` block.

    A login that other code of this process holds already is used and left alone; the PIN is then not read.

    Args:
        module: the loaded module.
        label: the token's label.
        serial: its serial number, or None for any.
        pin: gives the user PIN, which is tried once.

    Returns:
        What the token says of itself, and the binding's session.

    Raises:
        BackendConfigurationError: no such token, several, or its PIN is wrong, expired or locked.
        BackendUnavailableError: the token fails.
    """
    token = module.token(label=label, serial=serial)
    login = Login(module, token, pin)
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
