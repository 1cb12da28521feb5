"""The ceremony report as one HTML page: nothing loaded from elsewhere, made to be printed and signed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape

from hsm_provision.report import Report, ReportedKey
from hsm_provision.report_style import STYLE
from hsm_provision.verification import KeyProof

_SHOWN_ATTRIBUTES = (
    "SENSITIVE",
    "EXTRACTABLE",
    "ALWAYS_SENSITIVE",
    "NEVER_EXTRACTABLE",
    "LOCAL",
    "PRIVATE",
    "TOKEN",
    "MODIFIABLE",
    "COPYABLE",
)
_SHOWN_RIGHTS = ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "SIGN", "VERIFY", "DERIVE")
_GROUP = 4
_LONGEST = 40
"""Digests in the timeline are cut here; whole ones stand with their keys."""


def render(report: Report) -> str:
    """Return the page."""
    body = "".join(
        (
            _head(report),
            _facts(report),
            _problems(report),
            _keys(report),
            _attributes(report),
            _timeline(report),
            _audit(report),
            _signatures(report),
        )
    )
    title = f"Key ceremony report: {report.ceremony}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    word, kind = ("Verified", "good") if report.sound else ("NOT VERIFIED", "bad")
    about = f'<p class="about">{escape(report.description)}</p>' if report.description else ""
    return (
        f'<header><p class="eyebrow">Key ceremony report</p><div class="title"><h1>{escape(report.ceremony)}</h1>'
        f'<span class="verdict {kind}">{word}</span></div>{about}</header>'
    )


def _facts(report: Report) -> str:
    body = report.manifest.body
    signer = report.manifest.signature.key if report.manifest.signature else "nobody: the manifest is not signed"
    rows = [
        ("Token", f"{body.token.label} (serial {body.token.serial})"),
        ("Make", f"{body.token.manufacturer}, {body.token.model}"),
        ("Module", report.module),
        ("Environment", report.environment),
        ("Report made", f"{report.made} by {report.operator}"),
        ("Witnesses", ", ".join(report.witnesses) or "none named"),
        ("Manifest", f"number {body.sequence}, written {body.written}, signed by {signer}"),
        ("Tool", f"hsm-provision {report.tool}"),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    hashes = f"<dt>Ceremony file</dt><dd>{_digest(report.ceremony_sha256)}</dd>"
    hashes += "".join(f"<dt>Plan carried out</dt><dd>{_digest(plan)}</dd>" for plan in report.plans)
    return f'<section><dl class="facts">{listed}{hashes}</dl></section>'


def _problems(report: Report) -> str:
    found = list(report.verdict.problems)
    found += [f"{proof.label}: {problem}" for proof in report.verdict.proofs for problem in proof.problems]
    if report.audit is not None and report.audit.problem:
        found.append(f"audit log: {report.audit.problem}")
    if not found:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in found)
    return f'<section class="problems"><h2>Problems</h2><ul>{items}</ul></section>'


def _keys(report: Report) -> str:
    rows = "".join(_key_row(key) for key in report.keys)
    return (
        "<section><h2>Keys</h2><p>The check value proves which key it is without revealing it. "
        "Read its words aloud to compare it with another token or an earlier report.</p>"
        '<table class="keys"><thead><tr><th>Key</th><th>State</th><th>Kind</th><th>Origin</th>'
        f"<th>Check value</th><th>Proved</th></tr></thead>{rows}</table></section>"
    )


def _key_row(key: ReportedKey) -> str:
    entry = key.entry
    until = f"until {entry.not_after[:10]}" if entry.not_after else ""
    backup = " · backed up" if entry.backup else ""
    value = _digest(entry.check.value) if entry.check.method == "spki-sha256" else _grouped(entry.check.value)
    return (
        f'<tbody><tr><td><b class="label">{escape(entry.label)}</b><small>{escape(key.purpose)}</small></td>'
        f"<td>{escape(entry.state)}<small>{escape(until)}</small></td>"
        f"<td>{escape(f'{entry.type} {entry.size}')}</td>"
        f"<td>{escape(entry.provenance)}<small>{escape(entry.created[:10])}{backup}</small></td>"
        f'<td><span class="mono">{value}</span><small class="words">{escape(key.words)}</small>'
        f"<small>{escape(entry.check.method)}</small></td><td>{_mark(key.proof)}</td></tr></tbody>"
    )


def _attributes(report: Report) -> str:
    names = (*_SHOWN_ATTRIBUTES, *_SHOWN_RIGHTS)
    head = "".join(f'<th class="turned"><span>{name.replace("_", " ").lower()}</span></th>' for name in names)
    rows = "".join(_attribute_rows(key.proof, names) for key in report.keys)
    table = f'<table class="matrix"><thead><tr><th>Object</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        '<section class="fresh"><h2>Attributes read back from the token</h2>'
        "<p>Each cell is what the token said. A dot means: not demanded of this object. A value that differs from "
        "what the profile demands is framed. Beyond reading, each key was tried: reading its value, wrapping it out, "
        f"copying it and giving it further rights were all refused.</p>{table}</section>"
    )


def _attribute_rows(proof: KeyProof, names: Sequence[str]) -> str:
    by_half: dict[str, dict[str, tuple[bool, bool]]] = {}
    for name, wanted, holds in proof.attributes:
        half, attribute = name.split(" ", 1)
        by_half.setdefault(half, {})[attribute] = (wanted, holds)
    rows = []
    for half, attributes in by_half.items():
        cells = "".join(_cell(attributes.get(name)) for name in names)
        part = "" if half == "secret" else f" <i>{half}</i>"
        rows.append(f"<tr><td>{escape(proof.label)}{part}</td>{cells}</tr>")
    return "".join(rows)


def _cell(found: tuple[bool, bool] | None) -> str:
    if found is None:
        return '<td class="none">·</td>'
    wanted, holds = found
    value = wanted if holds else not wanted
    kind = ("yes" if value else "no") + ("" if holds else " wrong")
    return f'<td class="{kind}">{"yes" if value else "no"}</td>'


def _timeline(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{record.sequence}</td><td>{escape(record.time.replace('T', ' ').removesuffix('Z'))}</td>"
        f"<td>{escape(record.actor)}</td><td>{escape(record.event)}</td><td>{_details(record.details.items())}</td></tr>"
        for record in report.timeline
    )
    return (
        '<section class="fresh"><h2>Timeline</h2><p>From the audit log; times are UTC.</p>'
        '<table class="timeline"><thead><tr><th>No.</th><th>Time</th><th>Who</th><th>What</th><th>Details</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></section>"
    )


def _audit(report: Report) -> str:
    verdict = report.audit
    if verdict is None:
        text = "The audit log is not signed, as the ceremony names no signing key."
    elif verdict.problem:
        text = f"The audit log does not verify: {verdict.problem}."
    else:
        text = (
            f"The audit log of {verdict.records} records is whole: every record holds the hash of the one before, "
            f"{verdict.checkpoints} checkpoints carry a signature made inside the token, and the last one is known "
            "to the signed manifest."
        )
    return f"<section><h2>Audit log</h2><p>{escape(text)}</p></section>"


def _signatures(report: Report) -> str:
    people = [(report.operator, "Operator"), *((name, "Witness") for name in report.witnesses)]
    lines = "".join(
        f'<div class="sign"><div class="line"></div><p>{escape(name)}<small>{role}; date and signature</small></p>'
        "</div>"
        for name, role in people
    )
    return (
        '<section class="signatures"><h2>Signatures</h2><p>We were present and saw that this report describes what '
        f'was done.</p><div class="signs">{lines}</div></section>'
    )


def _details(items: Iterable[tuple[str, str]]) -> str:
    shown = [
        f"{name} {value if len(value) <= _LONGEST or ' ' in value else value[:_LONGEST] + '…'}"
        for name, value in items
    ]
    return escape(", ".join(shown))


def _mark(proof: KeyProof) -> str:
    return '<span class="good">yes</span>' if proof.sound else '<span class="bad">NO</span>'


def _digest(value: str) -> str:
    return '<span class="mono">' + "<br>".join(_grouped(line) for line in textwrap.wrap(value, 32)) + "</span>"


def _grouped(value: str) -> str:
    return escape(" ".join(textwrap.wrap(value, _GROUP)))
