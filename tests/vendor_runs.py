"""Runs the suites on each vendor's token, in a process of its own, and makes one table of the outcomes.

``python tests/vendor_runs.py`` runs them all and writes hsm_msl/backend/pkcs11/VENDORS.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "hsm_msl/backend/pkcs11/VENDORS.md"
COMMAND = "python tests/vendor_runs.py"
PLUGINS = ("softhsm_fixture", "token_fixture", "key_backends", "vendor_tokens", "vendor_home")
SECONDS = 420
REFUSED = "refused"
DEVIATES = "deviates"

CEREMONY = "tests/contract/vendor_ceremony.py"
EXCHANGES = "tests/contract/vendor_exchange.py"
RECORDED = "tests/vectors/test_recorded_exchanges.py"
CONTRACT = (
    "tests/contract/test_key_symmetric.py",
    "tests/contract/test_key_wrapping.py",
    "tests/contract/test_key_asymmetric.py",
)
ON_TOKEN = "not software"
"""Selects the parameters that use the token, in suites that also know another home for keys."""


@dataclass(frozen=True)
class Vendor:
    """A token the suites run on.

    Attributes:
        title: the head of its column.
        script: what starts it.
        files: the suites.
        deviations: tests whose result is known not to be the standard's, and what it is instead.
    """

    title: str
    script: str
    files: tuple[str, ...] = (EXCHANGES, RECORDED, *CONTRACT)
    deviations: Mapping[str, str] = field(default_factory=dict)


VENDORS: Mapping[str, Vendor] = {
    "softhsm": Vendor("SoftHSMv2", "with-softhsm-token.sh"),
    "nss": Vendor("NSS softokn", "with-nss.sh"),
    "opencryptoki": Vendor(
        "openCryptoki",
        "with-opencryptoki.sh",
        deviations={
            "test_rsa_decryption[vendor-RsaPadding.PKCS1]": "an empty RSAES-PKCS1-v1_5 plaintext is one zero byte"
        },
    ),
    # The recordings come with private keys, and a TPM takes none.
    "tpm2": Vendor("TPM 2.0", "with-tpm.sh", files=(EXCHANGES, *CONTRACT)),
    "p11kit": Vendor("p11-kit remote", "with-p11kit.sh"),
}


@dataclass(frozen=True)
class Column:
    """What came of one vendor's run.

    Attributes:
        cells: outcome by section and row.
        failures: what no declaration excuses, for people.
        facts: what the token says of itself (``facts.TokenFacts``).
        fallbacks: how operations are done that the token has no mechanism for.
    """

    cells: Mapping[tuple[str, str], str]
    failures: tuple[str, ...]
    facts: Mapping[str, Any]
    fallbacks: Mapping[str, str]


def run(name: str) -> Column:
    """Start a vendor's token, run the suites in its process, and return the outcomes.

    The ceremony has a token of its own: every key on it must be one of the manifest's.
    """
    vendor = VENDORS[name]
    outcomes = [_outcome(name, vendor, files) for files in ((CEREMONY,), vendor.files)]
    return _column(vendor, [report for report, _ in outcomes], "\n".join(output[-3000:] for _, output in outcomes))


def _outcome(name: str, vendor: Vendor, files: Sequence[str]) -> tuple[ElementTree.Element, str]:
    """Return the report of some suites on a fresh token, and what was printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "HSM_MSL_TOKEN"))}
    environment["PYTHONPATH"] = f"{ROOT / 'tests'}:{ROOT}"
    with TemporaryDirectory(prefix="vendor-run-") as directory:
        report = Path(directory) / "report.xml"
        command = [str(ROOT / "softhsm" / vendor.script), sys.executable, "-m", "pytest", "--noconftest"]
        command += [option for plugin in PLUGINS for option in ("-p", plugin)]
        command += ["-p", "no:cacheprovider", "-q", "--tb=short", "-k", ON_TOKEN]
        command += ["-o", "junit_family=legacy", f"--junitxml={report}"]  # the newer one has no room for findings
        process = subprocess.Popen(
            [*command, *files],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise RuntimeError(f"{name}: not done in {SECONDS} s:\n{output[-4000:]}") from None
        if not report.exists():
            raise RuntimeError(f"{name}: the run ended with {process.returncode}:\n{output[-4000:]}")
        return ElementTree.parse(report).getroot(), output


def _column(vendor: Vendor, reports: Sequence[ElementTree.Element], output: str) -> Column:
    counts: dict[tuple[str, str], Counter[str]] = {}
    failures: list[str] = []
    diagnosis: dict[str, Any] = {}
    for case in (case for report in reports for case in report.iter("testcase")):
        test = case.get("name", "")
        found = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "ok")
        outcome = {"failure": "FAIL", "error": "FAIL", "skipped": REFUSED}.get(found, found)
        if outcome == "FAIL" and test in vendor.deviations:
            outcome = DEVIATES
        elif outcome == "FAIL":
            failures.append(test)
        elif test in vendor.deviations:
            failures.append(f"{test} is right now; take its deviation out")
        for item in case.iter("property"):
            diagnosis[str(item.get("name"))] = json.loads(str(item.get("value")))
        suite = case.get("classname", "")
        section = next((name for name in ("exchange", "ceremony") if name in suite), "contract")
        counts.setdefault((section, _sentence(test)), Counter())[outcome] += 1
    if not diagnosis:
        failures.append(f"the doctor said nothing:\n{output}")
    elif failures:
        failures.append(output)
    cells = {row: _cell(count) for row, count in counts.items()}
    findings = diagnosis.get("findings", [])
    cells |= {("operation", finding["name"]): finding["ability"] for finding in findings}
    cells |= {
        ("scheme", scheme["name"]): "yes" if scheme["served"] else "no" for scheme in diagnosis.get("schemes", [])
    }
    fallbacks = {finding["name"]: finding["how"] for finding in findings if finding["ability"] == "by fallback"}
    return Column(cells, tuple(failures), diagnosis.get("token", {}), fallbacks)


def _sentence(test: str) -> str:
    return test.partition("[")[0].removeprefix("test_").replace("_", " ")


def _cell(count: Counter[str]) -> str:
    if len(count) == 1:
        return "yes" if "ok" in count else next(iter(count))
    parts = [f"{count['ok']} of {count.total()}"]
    return ", ".join(parts + [f"{number} {kind}" for kind, number in sorted(count.items()) if kind != "ok"])


HEADS = {
    "exchange": "Whole exchanges, with the keys on the token",
    "ceremony": "Keys made by `hsm-provision` on the token",
    "operation": "Operations, as `hsm-msl doctor` tries them",
    "scheme": "Schemes a server with such a token can speak, as `hsm-msl doctor` tells",
    "contract": "The contract of the key ports, test by test",
}


def lines(columns: Mapping[str, Column]) -> Iterator[str]:
    """Give the document as lines of Markdown."""
    yield "# Vendor matrix"
    yield ""
    yield f"Made by `{COMMAND}`, which runs every row on every token; edit nothing here by hand. `tests/contract/`"
    yield "`test_vendor_tokens.py` runs it again and fails on any cell that is no longer true."
    yield ""
    yield "yes: right in every case. by fallback: another mechanism, or the host, does a part of it. refused: the"
    yield "token cannot do it, and the call says so by name instead of giving a result. n of m: in so many cases."
    yield ""
    yield "| token | manufacturer, model | firmware | mechanisms in use | listed and not used |"
    yield "| --- | --- | --- | --- | --- |"
    for name, column in columns.items():
        facts = column.facts
        broken = ", ".join(facts["broken"]) or "-"
        yield f"| {VENDORS[name].title} | {facts['manufacturer']}, {' '.join(facts['model'].split())} | {facts['firmware']} | {len(facts['mechanisms'])} | {broken} |"  # noqa: E501 - a row of a table
    for section, head in HEADS.items():
        rows = {row: None for column in columns.values() for kind, row in column.cells if kind == section}
        yield ""
        yield f"## {head}"
        yield ""
        yield f"| | {' | '.join(VENDORS[name].title for name in columns)} |"
        yield f"| --- |{' --- |' * len(columns)}"
        for row in rows:
            cells = (column.cells.get((section, row), "not run") for column in columns.values())
            yield f"| {row} | {' | '.join(cells)} |"
    yield ""
    yield "## Fallbacks in use"
    yield ""
    for name, column in columns.items():
        for operation, how in column.fallbacks.items():
            yield f"* {VENDORS[name].title}, {operation}: {how}."
    yield ""
    yield "## Known deviations"
    yield ""
    for vendor in VENDORS.values():
        for text in vendor.deviations.values():
            yield f"* {vendor.title}: {text}."


def recorded(name: str) -> dict[tuple[str, str], str]:
    """Return a vendor's cells as the document has them."""
    sections = {head: section for section, head in HEADS.items()}
    found: dict[tuple[str, str], str] = {}
    section, place = "", 0
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            section, place = sections.get(line[3:], ""), 0
        elif section and line.startswith("| ") and not line.startswith("| ---"):
            row, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            if not row:
                place = cells.index(VENDORS[name].title)
            else:
                found[section, row] = cells[place]
    return found


def main() -> int:
    """Run every vendor; write the document, or tell what failed."""
    columns = {}
    for name in VENDORS:
        columns[name] = run(name)
        print(f"{VENDORS[name].title}: {len(columns[name].cells)} rows", *columns[name].failures, sep="\n  ")
    if any(column.failures for column in columns.values()):
        return 1
    TABLE.write_text("\n".join(lines(columns)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
