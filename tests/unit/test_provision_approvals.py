"""Approvals of people who sign at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hsm_provision.approvals import Approval, add_approval, read_approvals


def test_no_approval_is_lost_to_another_of_the_same_moment(tmp_path: Path) -> None:
    names = [f"approver {number}" for number in range(40)]
    path = tmp_path / "approvals/hash.json"
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda name: add_approval(path, Approval(name, "now", "signature")), names))
    assert sorted(one.approver for one in read_approvals(path)) == sorted(names)
