"""The documents name tests as proof; a name that no longer leads to a test is a claim nobody proves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *ROOT.glob("provisioning/**/*.md"),
    *ROOT.glob("hsm_msl/**/*.md"),
]
PROOF = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_a_document_names_is_there(document: Path) -> None:
    for file, name in PROOF.findall(document.read_text()):
        source = ROOT / file
        assert source.is_file(), f"{document.name} names {file}"
        assert not name or f"\ndef {name}(" in source.read_text(), f"{document.name} names {file}::{name}"


def test_the_claims_of_the_security_page_each_name_a_proof() -> None:
    rows = re.findall(r"^\| (?!claim \||---)(.+?) \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for claim, proof in rows:
        assert PROOF.search(proof) or "import contract" in proof, claim
