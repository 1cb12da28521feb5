"""The command itself: its verbs, and errors as one line and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from hsm_msl.errors import HsmMslError
from hsm_provision import __version__
from hsm_provision.cli import (
    approvers,
    attestations,
    audits,
    backups,
    ceremonies,
    certificates,
    fleets,
    imports,
    keys,
    reports,
    users,
)
from hsm_provision.cli.console import err
from hsm_provision.errors import ExitCode, exit_code

HELP = """Create, verify and look after the keys of hsm-msl inside a PKCS#11 token.

\b
Exit codes:
  0   done, or nothing to do
  1   unexpected failure
  2   wrong usage, ceremony or file
  3   the token holds something that contradicts the ceremony
  4   the agreed plan is stale
  5   a key or a record failed verification
  6   an approval is missing, or a state forbids the step
  7   the token is unavailable; try again
  8   an operator must act on the token (PIN, label, module)
  9   the users database gives no answer
  10  a key has expired or will soon
  11  some lines of the input were rejected; the others are stored
  130 interrupted
"""


# Newer typer brings its own copy of click, older ones use the package: the class is taken from where typer has it.
_USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)


def build() -> typer.Typer:
    """Return the command with all its verbs."""
    app = typer.Typer(
        name="hsm-provision",
        help=HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for verbs in (
        ceremonies,
        keys,
        attestations,
        approvers,
        backups,
        imports,
        users,
        fleets,
        certificates,
        reports,
        audits,
    ):
        verbs.register(app)

    @app.command()
    def version() -> None:
        """Print the version."""
        typer.echo(__version__)

    return app


def main() -> None:
    """Run the command line and exit with a documented code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; every expected failure is one line on standard error."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise  # of a file, and then nobody expected it
        # What is still to be written goes nowhere, or the interpreter would fail at it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        err().print(f"hsm-provision: standard output cannot be written: {error.strerror}", markup=False)
        return int(ExitCode.UNEXPECTED)
    return code


def _run(arguments: list[str]) -> int:
    try:
        result = build()(args=arguments, standalone_mode=False, prog_name="hsm-provision")
    except HsmMslError as error:
        err().print(f"hsm-provision: {error}", markup=False)
        return int(exit_code(error))
    except _USAGE_ERRORS as error:
        show = getattr(error, "show", None)
        if show is not None:
            show()
        return int(ExitCode.USAGE)
    except (typer.Abort, KeyboardInterrupt):
        result = int(ExitCode.INTERRUPTED)
    if result == ExitCode.INTERRUPTED:
        console = err()
        if console.is_terminal:
            console.print()  # the question that was broken off stands on a line of its own
        console.print("interrupted; run the same command again to continue", markup=False)
    return result if isinstance(result, int) else int(ExitCode.DONE)
