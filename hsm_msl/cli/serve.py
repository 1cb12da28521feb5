"""``hsm-msl serve``: open what the configuration names, say where the keys live, and answer messages."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm_msl.cli.failures import CommandError
from hsm_msl.service.compose.server import ComposedServer, compose_server, server_public_key
from hsm_msl.service.config import read_server_config
from hsm_msl.service.dialog.beside import dialogs_beside
from hsm_msl.service.named_application import applications
from hsm_msl.service.serving import serve as run
from hsm_msl.service.watch.log_lines import set_up_logging


def serve(path: Path, *, check_only: bool) -> None:
    """Serve the configuration's application, or the echo, until interrupted.

    Args:
        path: the configuration file.
        check_only: open and try everything, then stop.

    Raises:
        ConfigurationError, BackendError, StoreError: something cannot be opened; the text says what to do.
    """
    set_up_logging()
    config = read_server_config(path)
    set_up_logging(config.document.log)
    if check_only:
        composed = compose_server(config, applications(config).whole, occasion="check")
        try:
            composed.check()
            dialogs = dialogs_beside(config, composed)
            if dialogs is not None:
                dialogs.close()
            _print_keys(composed)
        finally:
            composed.close()
        print(f"hsm-msl: {path} is good to serve")
        return
    try:
        run(config, _announce)
    except KeyboardInterrupt:
        sys.stderr.write("hsm-msl: stopped\n")


def _announce(url: str, composed: ComposedServer) -> None:
    _print_keys(composed)
    print(f"hsm-msl: {composed.identity} is listening on {url}", flush=True)


def _print_keys(composed: ComposedServer) -> None:
    for purpose, place in composed.places:
        print(f"hsm-msl: {purpose}: {place}")


def public_key(path: Path, output: Path | None) -> None:
    """Print a server's public key in PEM, for its clients.

    Args:
        path: the server's configuration file.
        output: where it goes; standard output when None.

    Raises:
        ConfigurationError, BackendError: the server has no key pair, or its token cannot be used.
        CommandError: the output cannot be written.
    """
    key = load_der_public_key(server_public_key(read_server_config(path)))
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if output is None:
        sys.stdout.write(pem.decode("ascii"))
        return
    try:
        output.write_bytes(pem)
    except OSError as error:
        raise CommandError(f"{output}: cannot be written: {error.strerror}") from None
