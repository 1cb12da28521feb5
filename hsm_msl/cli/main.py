"""The ``hsm-msl`` command: its verbs, each loaded only when it is used, and the one place where it ends."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from hsm_msl.cli.dialog import app as dialog
from hsm_msl.cli.failures import INTERRUPTED, USAGE, exit_code, say
from hsm_msl.errors import HsmMslError

_EPILOG = "Start with: hsm-msl serve CONFIG (a server), then hsm-msl send CONFIG URL DATA (a client)."

app = typer.Typer(
    name="hsm-msl",
    help="Message Security Layer with the long-term keys inside a PKCS#11 token.",
    epilog=_EPILOG,
    add_completion=False,
    # Its tracebacks print local variables, and those may be secrets.
    pretty_exceptions_enable=False,
)
app.add_typer(dialog)

# Whoever reads a file says why it cannot be read; typer would call that a wrong command line.
_Config = Annotated[Path, typer.Argument(metavar="CONFIG", readable=False, help="The TOML configuration file.")]


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"hsm-msl {installed_version('hsm-msl')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        say(f"no command given. {_EPILOG}")
        raise typer.Exit(USAGE)


@app.command("version")
def _version() -> None:
    """Print the version."""
    typer.echo(f"hsm-msl {installed_version('hsm-msl')}")


@app.command("serve")
def _serve(
    config: _Config,
    check: Annotated[
        bool, typer.Option("--check", help="Open tokens, keys and databases, then stop instead of serving.")
    ] = False,
) -> None:
    """Answer MSL messages over HTTP with the application the configuration names, or an echo."""
    from hsm_msl.cli.serve import serve

    serve(config, check_only=check)


@app.command("public-key")
def _public_key(
    config: _Config,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
) -> None:
    """Print a server's public key, which its clients have to trust."""
    from hsm_msl.cli.serve import public_key

    public_key(config, output)


@app.command("send")
def _send(
    config: _Config,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the server listens, http://HOST:PORT/PATH.")],
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="What to send; else --file or stdin.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Send the content of this file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the reply here.")] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Send it this many times in one session.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="Tell on stderr what was exchanged.")] = False,
) -> None:
    """Send a message and print its reply."""
    from hsm_msl.cli.send import send

    send(config, url, data, file=file, output=output, repeat=repeat, explain=explain)


@app.command("inspect")
def _inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recorded request or response; - for stdin.")],
    keys: Annotated[
        Path | None, typer.Option("--keys", readable=False, help="TOML file with the keys to open it with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Decode a recorded request or response."""
    from hsm_msl.cli.inspect import inspect

    inspect(file, keys, as_json=as_json)


@app.command("revoke")
def _revoke(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", readable=False, help="The servers' configuration file.")
    ],
    entity: Annotated[str | None, typer.Option("--entity", help="Identity of an entity.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Identity of a user, as user ID tokens name it.")] = None,
    serial: Annotated[
        int | None, typer.Option("--serial", min=0, max=2**53, help="Only the token of this serial number.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="End the revocation.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print what is revoked.")] = False,
) -> None:
    """Take back an entity, a user, or one token of theirs; running servers refuse them within seconds.

    Example: hsm-msl revoke server.toml --entity stolen-device --reason 'reported stolen'
    """
    from hsm_msl.cli.revoke import list_revoked, revoke

    if listed:
        list_revoked(config)
    else:
        revoke(config, entity=entity, user=user, serial=serial, reason=reason, withdraw=withdraw)


@app.command("doctor")
def _doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]", readable=False, help="A server's or client's file; or --uri, or --module."
        ),
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="Which token of the file.")] = None,
    uri: Annotated[str | None, typer.Option("--uri", help="The token as an RFC 7512 URI.")] = None,
    module: Annotated[str | None, typer.Option("--module", help="Path or alias of a PKCS#11 library.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The token's label.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="The token's serial number.")] = None,
    pin: Annotated[str | None, typer.Option("--pin", help="Where the PIN comes from, such as file:/path.")] = None,
    vendor: Annotated[str | None, typer.Option("--vendor", help="Which vendor profile to use.")] = None,
    parameters: Annotated[
        str | None, typer.Option("--parameters", help="The library's initialisation string (NSS, YubiHSM).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Examine a token: what it is, what it really does, how fast, and which schemes that is enough for."""
    from hsm_msl.cli.doctor import doctor

    doctor(
        config,
        token=token,
        uri=uri,
        module=module,
        label=label,
        serial=serial,
        pin=pin,
        vendor=vendor,
        parameters=parameters,
        as_json=as_json,
    )


def main() -> None:
    """Run the command line; every failure ends as one line on standard error and an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(prog_name="hsm-msl", standalone_mode=False)
    except HsmMslError as error:
        say(str(error))
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        # Typer's own complaints about the command line have this shape in every version of it.
        text = getattr(error, "format_message", None)
        if text is None:
            raise
        say(f"{text()} See: hsm-msl --help")
        return USAGE
    return int(code or 0)
