"""``hsm-msl dialog``: run a service with dialogs, and work on its dialogs from the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsm_msl.cli.failures import USAGE, CommandError, say
from hsm_msl.printable import printable

if TYPE_CHECKING:
    from hsm_msl.service.dialog.console import DialogConsole

app = typer.Typer(
    name="dialog",
    help="Hold secure dialogs with other services; each side shifts its own session keys.",
    epilog=(
        "Example, while hsm-msl dialog serve orders.toml runs: D=$(hsm-msl dialog open orders.toml urn:demo:stock); "
        "hsm-msl dialog send orders.toml $D order 'three chairs'; hsm-msl dialog receive orders.toml $D --wait 30"
    ),
    # Its tracebacks print local variables, and those may be secrets.
    pretty_exceptions_enable=False,
)

_Config = Annotated[Path, typer.Argument(metavar="CONFIG", readable=False, help="The service's TOML configuration.")]
_Dialog = Annotated[str, typer.Argument(metavar="DIALOG", help="Id of the dialog, or its first digits.")]
_AnyDialog = Annotated[str, typer.Argument(metavar="[DIALOG]", help="Id of a dialog, or its first digits.")]


@app.callback(invoke_without_command=True)
def _start(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        say("no command given. Start with: hsm-msl dialog serve CONFIG")
        raise typer.Exit(USAGE)


@contextlib.contextmanager
def _console(config: Path) -> Iterator[DialogConsole]:
    """Open the service for one command."""
    from hsm_msl.service.dialog.console import DialogConsole
    from hsm_msl.service.dialog.opening import open_dialogs

    composed = open_dialogs(config)
    try:
        yield DialogConsole(composed)
    finally:
        composed.close()


def _print(lines: Iterable[tuple[str, str]]) -> None:
    part = False
    for name, value in lines:
        if name.endswith(":"):
            part = True
            typer.echo(f"{name} {value}".rstrip())
        else:
            typer.echo(f"{'  ' if part else ''}{name:24} {value}")


@app.command("serve")
def _serve(config: _Config) -> None:
    """Receive and send packets over HTTP until interrupted."""
    from hsm_msl.service.dialog.serving import serve

    def announce(url: str, name: str) -> None:
        typer.echo(f"hsm-msl: {name} is listening on {url}")
        sys.stdout.flush()

    serve(config, announce)


@app.command("open")
def _open(
    config: _Config,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Name of the other service.")],
    lifetime: Annotated[int, typer.Option(min=1, help="Seconds until the dialog ends on both sides.")] = 86400,
    contract: Annotated[str, typer.Option(help="Name of the agreed contract.")] = "",
) -> None:
    """Begin a dialog and print its id. Nothing travels before the first message.

    Example: hsm-msl dialog open orders.toml urn:demo:stock --lifetime 3600
    """
    with _console(config) as console:
        identifier, bound = console.begin(remote, lifetime, contract)
        typer.echo(identifier)
    if not bound:
        typer.echo(f"hsm-msl: no binding for {remote} is in force; messages wait until there is one", err=True)


@app.command("send")
def _send(
    config: _Config,
    dialog: _Dialog,
    message_type: Annotated[str, typer.Argument(metavar="TYPE", help="What the message is.")],
    body: Annotated[str | None, typer.Argument(metavar="[BODY]", help="What to send; else standard input.")] = None,
) -> None:
    """Put a message into the outbox; the serving process sends it within a second.

    Example: hsm-msl dialog send orders.toml 3f2a order 'three chairs', or with < FILE in place of the text
    """
    data = sys.stdin.buffer.read() if body is None else body.encode()
    with _console(config) as console:
        number = console.send(dialog, message_type, data)
        typer.echo(f"message {number}" if number else "accepted; it waits, encrypted, for a binding")


@app.command("receive")
def _receive(
    config: _Config,
    dialog: _AnyDialog = "",
    count: Annotated[int, typer.Option(min=1, help="Most messages to take.")] = 1,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for them.")] = 0.0,
) -> None:
    """Take messages out of the inbox and print them; exit code 1 when there was none.

    Each is printed as dialog, number, type and content. Without DIALOG it takes from any dialog.

    Example: hsm-msl dialog receive stock.toml --wait 30 --count 10
    """
    from hsm_msl.dialog.names import Kind

    found = False
    with _console(config) as console:
        for message in console.receive(dialog, count, wait):
            found = True
            what = message.message_type or message.kind.name.lower().replace("_", "-")
            if message.kind is Kind.ABORT and message.reason is not None:
                what = f"dialog failed: {message.reason.text}"
            if message.error is not None:
                what += f" {message.error[0]}: {message.error[1]}"
            typer.echo(f"{message.dialog.hex()[:8]} {message.seq} {printable(what)}", nl=False)
            sys.stdout.flush()
            sys.stdout.buffer.write((b": " + message.body if message.body else b"") + b"\n")
            sys.stdout.buffer.flush()
    if not found:
        raise CommandError("no message" + ("" if wait else "; --wait SECONDS waits for one"))


@app.command("show")
def _show(config: _Config, dialog: _AnyDialog = "") -> None:
    """List the dialogs, or show one with every header of its keys; contents and keys are never shown.

    Example: hsm-msl dialog show orders.toml 3f2a
    """
    with _console(config) as console:
        lines = list(console.show(dialog))
    if not lines:
        typer.echo("no dialogs")
    _print(lines)


@app.command("shift")
def _shift(config: _Config, dialog: _Dialog) -> None:
    """Shift the key of what this side sends, without asking the other side.

    The next message travels under the new key. Shifts of one side keep a distance of a second.
    """
    with _console(config) as console:
        typer.echo(f"generation {console.shift(dialog)}")


@app.command("end")
def _end(
    config: _Config,
    dialog: _Dialog,
    code: Annotated[int | None, typer.Option("--error", min=0, help="End with this error code.")] = None,
    text: Annotated[str, typer.Option("--text", help="What to say about the error.")] = "",
) -> None:
    """End this side's part of a dialog, after everything sent before; the other side has to end its own.

    Example: hsm-msl dialog end stock.toml 3f2a --error 7 --text 'no chairs'
    """
    with _console(config) as console:
        console.end(dialog, None if code is None else (code, text))
    typer.echo("ended here; the dialog closes when the other side has ended it too")


@app.command("fail")
def _fail(config: _Config, dialog: _Dialog) -> None:
    """Fail a dialog at once: keys and unsent messages are dropped, and the other side is told when it next sends."""
    with _console(config) as console:
        console.fail(dialog)
    typer.echo("failed: operator")


@app.command("bindings")
def _bindings(config: _Config) -> None:
    """Put the configured bindings in force and list them."""
    from hsm_msl.dialog.binding import certificate_facts, read_binding

    with _console(config) as console:
        for row in console.bindings():
            binding = read_binding(row.document)
            typer.echo(f"{binding.remote}{'*' if binding.prefix else ''} {binding.url}".rstrip())
            for use, pins in (("signing", binding.signing), ("encryption", binding.encryption)):
                for pin in pins:
                    state = "" if pin.enabled else " disabled"
                    typer.echo(f"  {use:12}{certificate_facts(pin.der).digest.hex()}{state}")
            for der in () if binding.trust is None else binding.trust.issuers:
                typer.echo(f"  {'issuer':12}{certificate_facts(der).digest.hex()}")


@app.command("policy-check")
def _policy_check(config: _Config) -> None:
    """Check that the rules of every binding can be kept together."""
    with _console(config) as console:
        for line in console.check_policies():
            typer.echo(line)


@app.command("rotate")
def _rotate(
    config: _Config,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="Name of the other service.")],
) -> None:
    """Use a new key exchange key for new session keys."""
    with _console(config) as console:
        console.rotate(remote)
    typer.echo(f"new session keys for {remote} travel under a new key exchange key")


@app.command("verify-packet")
def _verify_packet(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recorded packet; - for standard input.")],
) -> None:
    """Decode a packet strictly and show every header; no key is needed."""
    from hsm_msl.dialog.packet import parse
    from hsm_msl.service.dialog.view import show_packet

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from None
    _print(show_packet(parse(data)))
