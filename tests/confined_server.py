"""A server engine in a process of its own, whose keys another process holds. ``test_confinement`` runs and scans it.

It answers frames on standard input with frames on standard output: four bytes of length, one of kind, the body.
Kind ``M`` is an MSL request; ``P`` plants the body in this process's memory, to prove that a scan would find it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from confined_keys import CLIENT, LABELS
from hsm_msl.backend.pin import FilePin
from hsm_msl.backend.pkcs11 import module as modules
from hsm_msl.backend.pkcs11.connection import TokenSelector
from hsm_msl.backend.pkcs11.token import Token, open_token
from hsm_msl.backend.pkcs11.vendors import PROFILES
from hsm_msl.crypto.symmetric import SymmetricContext
from hsm_msl.msl.context import MslContext
from hsm_msl.ports import SymmetricKeys
from msl_keys import Ring
from msl_world import World
from token_places import with_identity, with_resident_keys


def opened() -> Token:
    environment = os.environ
    module = modules.load(environment["HSM_MSL_TOKEN_MODULE"])
    pin = FilePin(Path(environment["HSM_MSL_TOKEN_PIN_FILE"]))
    selector = TokenSelector(label=environment["HSM_MSL_TOKEN_LABEL"])
    return open_token(module, selector, pin, PROFILES[environment["HSM_MSL_TOKEN_PROFILE"]])


def server_context(token: Token, residency: str) -> tuple[World, MslContext]:
    """Return the server's place, with every long-term key a handle of the token."""

    def pair(purpose: str) -> SymmetricKeys:
        return SymmetricKeys(token.aes_key(LABELS[f"{purpose}.encryption"]), token.mac_key(LABELS[f"{purpose}.mac"]))

    world = World()
    tokens = pair("msl.token")
    world.ring = Ring(SymmetricKeys(tokens.encryption, tokens.mac, token.rsa_wrapping_key(LABELS["msl.token.wrap"])))
    world.preshared[CLIENT] = pair("psk")
    world.service_token_keys = {"": SymmetricContext(pair("service"), "service-tokens", world.random)}
    context = with_identity(world, world.server_context(), token.signing_key(LABELS["identity"]))
    return world, with_resident_keys(world, context, token) if residency == "token" else context


def main() -> None:
    token = opened()
    world, context = server_context(token, sys.argv[1])
    server = world.server(context=context)
    planted: list[bytes] = []
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(b"ready\n")
    sink.flush()
    while header := source.read(5):
        body = source.read(int.from_bytes(header[:4], "big"))
        if header[4:] == b"P":
            planted.append(body)
            answer = b"planted"
        else:
            answer = server.handle(body)
        sink.write(len(answer).to_bytes(4, "big") + answer)
        sink.flush()
    token.close()


if __name__ == "__main__":
    main()
