"""``hsm-msl doctor``: what a token is, what it can do here, how fast, and which schemes that is enough for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from hsm_msl.backend.pkcs11.facts import Speed, TokenFacts, measure, token_facts
from hsm_msl.backend.pkcs11.probe import Ability, Finding, probe, usable_mechanisms
from hsm_msl.backend.pkcs11.token import Token
from hsm_msl.cli.failures import FAILED
from hsm_msl.errors import ConfigurationError
from hsm_msl.msl.scheme_needs import NEEDS
from hsm_msl.service.compose.tokens import plan_of
from hsm_msl.service.key_sections import TokenSection
from hsm_msl.toml_document import read_document, suggestion

_STYLES = {
    Ability.NATIVE: "green",
    Ability.FALLBACK: "yellow",
    Ability.NO: "dim",
    Ability.WRONG: "bold red",
    Ability.FAILED: "bold red",
}
_SERVED, _NOT_SERVED = "yes", "no"


class _TokenTable(msgspec.Struct, frozen=True):
    """What a diagnosis reads of ``[tokens.NAME]``; whatever else is written there may be wrong."""

    module: str | None = None
    label: str | None = None
    serial: str | None = None
    uri: str | None = None
    pin: str | None = None
    vendor: str | None = None
    parameters: str | None = None
    pin_memory: str | None = None


class _TokensOnly(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a configuration a diagnosis reads."""

    tokens: dict[str, _TokenTable] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scheme:
    """Whether a scheme can be served with keys on this token, and what is missing."""

    kind: str
    name: str
    served: bool
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything the command tells, in the shape of its JSON."""

    token: TokenFacts
    findings: tuple[Finding, ...]
    schemes: tuple[Scheme, ...]
    speed: tuple[Speed, ...]

    @property
    def healthy(self) -> bool:
        """Whether no trial gave a wrong result or an outage. What a token lacks is no illness."""
        return all(finding.ability not in (Ability.WRONG, Ability.FAILED) for finding in self.findings)


def doctor(
    config: Path | None,
    *,
    token: str | None = None,
    uri: str | None = None,
    module: str | None = None,
    label: str | None = None,
    serial: str | None = None,
    pin: str | None = None,
    vendor: str | None = None,
    parameters: str | None = None,
    as_json: bool = False,
) -> None:
    """Examine a token and print what was found.

    Args:
        config: a server's or client's configuration file; None with ``uri`` or ``module``.
        token: its name there; None for the only one.
        uri: an RFC 7512 URI, instead of a configuration.
        module: path or alias of a PKCS#11 library, instead of either.
        label: the token's label.
        serial: its serial number.
        pin: source of its PIN, asked for when None (``file:``, ``fd:``, ``cred:``, ``exec:``, ``prompt``, ``env:``).
        vendor: name of the vendor profile; by what the token says of itself when None.
        parameters: the parameter string of the library's initialisation.
        as_json: print JSON instead of tables.

    Raises:
        ConfigurationError: neither file nor module is given, or the file names no such token.
        BackendError: the token cannot be opened.
        typer.Exit: with code 1 when a trial gave a wrong result or an outage.
    """
    if config is not None:
        section, directory = _section(config, token), config.parent
    elif module is not None or uri is not None:
        section = _TokenTable(module, label, serial, uri, pin or (None if uri else "prompt"), vendor, parameters)
        directory = Path.cwd()
    else:
        raise ConfigurationError("give a configuration file, --uri, or --module with --label or --serial and --pin")
    opened = _opened(section, directory, remember=config is not None)
    try:
        diagnosis = examine(opened)
    finally:
        opened.close()
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode("utf-8"))
    else:
        _print(diagnosis, Console())
    if not diagnosis.healthy:
        raise typer.Exit(FAILED)


def examine(token: Token) -> Diagnosis:
    """Try a token out. Nothing on it changes.

    Args:
        token: the token, logged in.

    Raises:
        BackendUnavailableError: it gives no answer.
    """
    facts = token_facts(token)
    findings = probe(token)
    usable = usable_mechanisms(token, findings)
    schemes = tuple(
        Scheme(needs.kind.value, needs.scheme, not missing, tuple(operation.name for operation in missing))
        for needs in NEEDS
        for missing in [needs.missing(usable)]
    )
    return Diagnosis(facts, findings, schemes, measure(token))


def _section(config: Path, name: str | None) -> _TokenTable:
    tokens = read_document(config, _TokensOnly).tokens
    if name is None and len(tokens) == 1:
        return next(iter(tokens.values()))
    if name is None and not tokens:
        raise ConfigurationError(f"{config}: names no token; say which one to examine with --uri or --module")
    if name is None:
        raise ConfigurationError(f"{config}: names {len(tokens)} tokens; say which with --token: {', '.join(tokens)}")
    if name not in tokens:
        raise ConfigurationError(f"{config}: tokens.{name} is not there; {suggestion(name, tokens)}")
    return tokens[name]


def _opened(section: _TokenTable, directory: Path, *, remember: bool) -> Token:
    declared = TokenSection(**msgspec.structs.asdict(section))
    plan = plan_of("the token", declared, lambda source: _absolute(source, directory), directory)
    return plan.open() if remember else replace(plan, pin_memory=None).open()


def _absolute(source: str, directory: Path) -> str:
    kind, _, rest = source.partition(":")
    return f"file:{directory.resolve() / rest}" if kind == "file" and rest else source


def _print(diagnosis: Diagnosis, console: Console) -> None:
    console.print(_facts_table(diagnosis.token))
    findings = Table("operation", "", "how", title="What it can do", title_justify="left")
    for finding in diagnosis.findings:
        findings.add_row(finding.name, finding.ability.value, finding.how, style=_STYLES[finding.ability])
    console.print(findings)
    schemes = Table("for", "scheme", "", "missing in the token", title="Which schemes it is enough for")
    schemes.title_justify = "left"
    for scheme in diagnosis.schemes:
        served = _SERVED if scheme.served else _NOT_SERVED
        style = "green" if scheme.served else "dim"
        schemes.add_row(scheme.kind, scheme.name, served, "; ".join(scheme.missing), style=style)
    console.print(schemes)
    speeds = Table("operation", "per second", title="Speed, one thread, session keys", title_justify="left")
    for speed in diagnosis.speed:
        speeds.add_row(speed.operation, "-" if speed.per_second is None else f"{speed.per_second:,.0f}")
    console.print(speeds)


def _facts_table(facts: TokenFacts) -> Table:
    table = Table("token", facts.label, title="What it is", title_justify="left")
    tested = "run by this project's tests" if facts.tested else "from documentation, never tested here"
    rows = {
        "module": facts.module,
        "manufacturer": facts.manufacturer,
        "model": facts.model,
        "serial": facts.serial,
        "hardware, firmware": f"{facts.hardware}, {facts.firmware}",
        "flags": ", ".join(facts.flags),
        "most sessions": "no limit" if facts.most_sessions is None else str(facts.most_sessions),
        "PIN bytes": "{} to {}".format(*facts.pin_lengths),
        "free memory": "not told" if facts.free_memory is None else f"{facts.free_memory:,} bytes",
        "profile": f"{facts.profile} ({tested}; {facts.source or 'nothing known'})",
        "quirks": "\n".join(f"* {quirk}" for quirk in facts.quirks) or "none known",
        "mechanisms": f"{len(facts.mechanisms)} in use",
        "listed and not used": ", ".join(facts.broken) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
