"""``seal``: an existing key, made ready where it is for the token it goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from hsm_msl.errors import ConfigurationError
from hsm_msl.private_files import create_private_file
from hsm_provision.cli.audits import read_public_key
from hsm_provision.cli.console import out
from hsm_provision.errors import ExitCode
from hsm_provision.key_material import read_material
from hsm_provision.profiles import read_profiles
from hsm_provision.transport import seal as seal_key


def seal(
    profile: Annotated[str, typer.Argument(help="Name of the key profile, e.g. msl-token-mac.")],
    file: Annotated[Path, typer.Argument(help="The key; /dev/stdin keeps it off the disk.")],
    to: Annotated[Path, typer.Option("--for", help="Public half of the token's transport key, PEM or DER.")],
    target: Annotated[Path, typer.Option("--out", help="File to write; must not exist.")],
    profiles: Annotated[Path, typer.Option("--profiles", help="Directory of the key profiles.")],
    form: Annotated[
        Literal["hex", "raw", "base64", "pkcs8", "jwk"], typer.Option("--form", help="The form the key file has.")
    ] = "hex",
    carrier: Annotated[str, typer.Option("--carrier", help="Label of the transport key.")] = "transport.unwrap.v1",
) -> int:
    """Seal an existing key for a token, where the key is now; needs no token.

    The ceremony of the receiving token imports it with `import = { file = "...", form = "sealed" }`. The plaintext is
    then never on the receiving host.

    Example: hsm-provision seal msl-token-mac /dev/stdin --for t.pem --out mac.sealed --profiles profiles < mac.hex
    """
    known = read_profiles(profiles)
    if profile not in known:
        raise ConfigurationError(f"no profile {profile!r}; there are: {', '.join(sorted(known))}")
    material = read_material(file, form, known[profile])
    sealed = seal_key(material, known[profile], carrier, read_public_key(to))
    create_private_file(target, msgspec.json.encode(sealed, order="sorted") + b"\n")
    out().print(f"{target}: check value {sealed.check.short} ({sealed.check.method})", markup=False)
    return int(ExitCode.DONE)


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(seal)
