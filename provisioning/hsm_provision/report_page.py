"""The ceremony report as one HTML page: nothing loaded from elsewhere, made to be printed and signed."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from hsm_provision.manifest import Attestation, ManifestKey
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
_SHOWN_OF_DIGEST = 16
"""Digests in the timeline are cut to this; whole ones stand with their keys and in the head of the page."""

_FOOTER = """@page {{ @bottom-left {{ content: "{}"; font: 7pt sans-serif; color: #5b636e; }}
@bottom-right {{ content: "page " counter(page) " of " counter(pages); font: 7pt sans-serif; color: #5b636e; }} }}
"""


def render(report: Report) -> str:
    """Return the page."""
    body = "".join(
        (
            _head(report),
            _problems(report),
            _summary(report),
            _facts(report),
            _keys(report),
            _attributes(report),
            _timeline(report),
            _audit(report),
            _signatures(report),
        )
    )
    title = f"Key ceremony report: {report.ceremony}"
    footer = _FOOTER.format(_css_text(f"{title}, token {report.manifest.body.token.serial}, {report.made}"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{footer}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
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
        ("Carried out by", "; ".join(report.operators)),
        ("Witnesses", "; ".join(report.witnesses) or "none named"),
        *(("Approved by", approval) for approval in report.approvals),
        ("Report made", f"{report.made} by {report.maker}"),
        ("Manifest", f"number {body.sequence}, written {body.written}, signed by {signer}"),
        ("Tool", f"hsm-provision {report.tool}"),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    hashes = f"<dt>Ceremony file</dt><dd>{_digest(report.ceremony_sha256)}</dd>"
    hashes += f"<dt>Manifest</dt><dd>{_digest(report.manifest_sha256)}</dd>"
    hashes += "".join(f"<dt>Plan carried out</dt><dd>{_digest(plan)}</dd>" for plan in report.plans)
    return (
        f'<section><h2>Who, where and what</h2><dl class="facts">{listed}</dl>'
        '<p class="about">SHA-256 of the ceremony file, of manifest.json, and of what was agreed to:</p>'
        f'<dl class="facts">{hashes}</dl></section>'
    )


def _summary(report: Report) -> str:
    """Say in a sentence or two what an auditor wants to know first; problems stand in a box of their own."""
    there = [key for key in report.keys if key.entry.state != "destroyed"]
    states = Counter(key.entry.state for key in report.keys)
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    proved = sum(key.proof.sound for key in there)
    gone = "" if len(there) == len(report.keys) else " What was destroyed is gone."
    whole = (
        f"Each of the {len(there)} on the token was read back, tried for what it must refuse, and recognised by its "
        f"check value; the token holds no other key.{gone}"
        if report.verdict.sound
        else f"Of the {len(there)} that should be on the token, {proved} proved to be as recorded."
    )
    return f'<section><p class="summary">{len(report.keys)} key versions ({escape(counted)}). {whole}</p></section>'


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
        f"<td>{escape(entry.provenance)}<small>{escape(entry.created[:10])}{backup}</small>{_evidence(entry)}</td>"
        f'<td><span class="mono">{value}</span><small class="words">{escape(key.words)}</small>'
        f"<small>{escape(entry.check.method)}</small></td><td>{_mark(key)}</td></tr></tbody>"
    )


def _evidence(entry: ManifestKey) -> str:
    if not isinstance(entry.attestation, Attestation):
        return ""
    return (
        f"<small>evidence ({escape(entry.attestation.kind)})<br>"
        f'<span class="mono">{_grouped(entry.attestation.sha256[:_SHOWN_OF_DIGEST])}</span></small>'
    )


def _attributes(report: Report) -> str:
    tried = tuple(dict.fromkeys(refusal.tried for key in report.keys for refusal in key.proof.tried))
    groups = (("protection", _SHOWN_ATTRIBUTES), ("rights", _SHOWN_RIGHTS), ("tried and refused", tried))
    over = "".join(f'<th class="group" colspan="{len(names)}">{name}</th>' for name, names in groups if names)
    head = "".join(_turned(name, first=name == names[0]) for _, names in groups for name in names)
    rows = "".join(_attribute_rows(key.proof, tried) for key in report.keys)
    table = (
        f'<table class="matrix"><thead><tr><th></th>{over}</tr><tr><th>Object</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    return (
        "<section><h2>Attributes read back, and attempts that must fail</h2>"
        "<p>Left and middle: what the token said of each object; a dot means that nothing is demanded of it. Right: "
        "what was tried on the key just now, with <b>yes</b> where the token refused. Whatever differs from what the "
        f"profile demands is framed.</p>{table}</section>"
    )


def _turned(name: str, *, first: bool) -> str:
    kind = "turned first" if first else "turned"
    return f'<th class="{kind}"><span>{escape(name.replace("_", " ").lower())}</span></th>'


def _attribute_rows(proof: KeyProof, tried: Sequence[str]) -> str:
    refused = {refusal.tried: (True, refusal.refused) for refusal in proof.tried}
    by_half: dict[str, dict[str, tuple[bool, bool]]] = {}
    for name, wanted, holds in proof.attributes:
        half, attribute = name.split(" ", 1)
        by_half.setdefault(half, {})[attribute] = (wanted, holds)
    rows = []
    for half, attributes in by_half.items():
        attempts = {} if half == "public" else refused
        cells = "".join(_cell(attributes.get(name), first=name == _SHOWN_ATTRIBUTES[0]) for name in _SHOWN_ATTRIBUTES)
        cells += "".join(_cell(attributes.get(name), first=name == _SHOWN_RIGHTS[0]) for name in _SHOWN_RIGHTS)
        cells += "".join(_cell(attempts.get(name), first=name == tried[0]) for name in tried)
        part = "" if half == "secret" else f" <i>{half}</i>"
        rows.append(f"<tr><td>{escape(proof.label)}{part}</td>{cells}</tr>")
    return "".join(rows)


def _cell(found: tuple[bool, bool] | None, *, first: bool) -> str:
    edge = " first" if first else ""
    if found is None:
        return f'<td class="none{edge}">·</td>'
    wanted, holds = found
    value = wanted if holds else not wanted
    kind = ("yes" if value else "no") + ("" if holds else " wrong") + edge
    return f'<td class="{kind}">{"yes" if value else "no"}</td>'


def _timeline(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{record.sequence}</td><td>{escape(record.time.replace('T', ' ').removesuffix('Z'))}</td>"
        f"<td>{escape(record.actor)}</td><td>{escape(record.event)}</td><td>{_details(record.details)}</td></tr>"
        for record in report.timeline
    )
    return (
        "<section><h2>Timeline</h2><p>From the audit log; times are UTC.</p>"
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
    people = [*((name, "Operator") for name in report.operators), *((name, "Witness") for name in report.witnesses)]
    lines = "".join(
        f'<div class="sign"><div class="line"></div><p>{escape(name)}<small>{role}; date and signature</small></p>'
        "</div>"
        for name, role in people
    )
    return (
        '<section class="signatures"><h2>Signatures</h2><p>We were present and saw that this report describes what '
        f'was done.</p><div class="signs">{lines}</div></section>'
    )


def _details(details: Mapping[str, str]) -> str:
    subject = f"<b>{escape(details['label'])}</b>" if "label" in details else ""
    others = ", ".join(f"{name} {_cut(value)}" for name, value in details.items() if name != "label")
    return subject + (": " if subject and others else "") + escape(others)


def _cut(value: str) -> str:
    method, _, digits = value.rpartition(":")
    if len(value) <= _LONGEST or " " in value:
        return value
    return f"{method}{':' if method else ''}{digits[:_SHOWN_OF_DIGEST]}…"


def _css_text(text: str) -> str:
    """Return text for a CSS string in a style element: whatever is not plain is written as a number."""
    return "".join(letter if letter.isalnum() or letter in " ,.-" else f"\\{ord(letter):x} " for letter in text)


def _mark(key: ReportedKey) -> str:
    if not key.proof.sound:
        return '<span class="bad">NO</span>'
    return '<span class="good">' + ("gone" if key.entry.state == "destroyed" else "yes") + "</span>"


def _digest(value: str) -> str:
    return '<span class="mono">' + "<br>".join(_grouped(line) for line in textwrap.wrap(value, 32)) + "</span>"


def _grouped(value: str) -> str:
    return escape(" ".join(textwrap.wrap(value, _GROUP)))
