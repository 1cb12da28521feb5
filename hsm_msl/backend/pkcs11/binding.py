"""What is asked of the binding that its type stubs do not know; the only place where its objects are untyped."""

from __future__ import annotations

import ctypes
from typing import Any, TypeAlias

import pkcs11
from pkcs11 import _pkcs11

Handle: TypeAlias = Any
"""A token object found or made through one session. The binding builds a class for each from its capabilities."""


def attach(path: str) -> _pkcs11.lib:
    """Return the binding's library object for a module that is initialised already.

    The binding's own initialiser is left out on purpose: it initialises without locking. Made this way, the object
    reads the same function list and never finalises it. This leans on a private class, so the version is capped in
    pyproject.toml and a test covers it.

    Args:
        path: absolute path of the loaded module.
    """
    library: _pkcs11.lib = _pkcs11.lib.__new__(_pkcs11.lib, path)  # type: ignore[call-arg]  # its __cinit__ takes it
    return library


def function_list(library: _pkcs11.lib) -> int:
    """Return the address of the function list a library object calls through.

    Modules that reach another process (p11-kit) give each caller of C_GetFunctionList a list, and with it a login and
    sessions, of its own; so what is called past the binding has to use the binding's list. It is the first member of
    the object, behind what every Python object begins with; ``Cryptoki.share`` checks that where it can.

    Args:
        library: from ``attach``.
    """
    address: int = ctypes.c_size_t.from_address(id(library) + object.__basicsize__).value
    return address


def handle_of(session: pkcs11.Session) -> int:
    """Return a session's number in the module.

    Args:
        session: an open session.
    """
    handle: int = session.handle  # type: ignore[attr-defined]  # set by the extension class
    return handle
