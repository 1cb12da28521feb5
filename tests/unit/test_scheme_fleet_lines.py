"""Reading a fleet for import: lines in, wrapped keys out (issue: fleet keys)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hsm_msl.backend.software import SoftwareWrappingKey
from hsm_msl.errors import ConfigurationError
from hsm_msl.stores.fleet_keys import FleetEntry
from hsm_provision.fleet_material import FleetRecord, RejectedLine, read_csv, read_json_lines, wrap_records

KEK = bytes(range(32))


def record(identity: str, number: int = 0) -> FleetRecord:
    return FleetRecord(identity, bytes([number] * 16).hex(), bytes([number] * 32).hex())


def never(line: RejectedLine) -> None:
    raise AssertionError(line)


def rejected_by(
    read: Callable[..., Iterator[tuple[int, FleetRecord]]], text: str
) -> tuple[list[FleetEntry], list[RejectedLine]]:
    lines: list[RejectedLine] = []
    kek = SoftwareWrappingKey(KEK)
    entries = list(wrap_records(read(text.splitlines(), lines.append), kek, "fleet.v1", lines.append))
    return entries, lines


GOOD = f"{'00' * 16},{'11' * 32}"


def test_csv_lines_are_wrapped_and_bad_ones_reported() -> None:
    entries, lines = rejected_by(
        read_csv,
        f"identity,encryption,mac\na,{GOOD}\n,{GOOD}\nb,00,{'11' * 32}\nc,{'00' * 16},xx\nd\n\n"
        f'"e,1",{GOOD}\n{"x" * 2000},{GOOD}\n',
    )
    assert [(entry.identity, entry.position) for entry in entries] == [("a", 2), ("e,1", 8)]
    assert [line.position for line in lines] == [3, 4, 5, 6, 9]
    assert "1 bytes instead of 16" in lines[1].reason
    assert all("11" * 32 not in line.reason for line in lines)


def test_csv_needs_its_header() -> None:
    with pytest.raises(ConfigurationError):
        rejected_by(read_csv, f"a,{GOOD}")
    with pytest.raises(ConfigurationError):
        rejected_by(read_csv, "")


def test_json_lines_are_wrapped_and_bad_ones_reported() -> None:
    keys = f'"encryption":"{"00" * 16}","mac":"{"11" * 32}","wrapping":"{"22" * 16}"'
    good = f'{{"identity":"a",{keys}}}'
    entries, lines = rejected_by(read_json_lines, f'{good}\n\n[]\n{{"identity":"b"}}\n{good[:-1]},"more":1}}\nx\n')
    assert [entry.position for entry in entries] == [1]
    assert [line.position for line in lines] == [3, 4, 5, 6]
    assert entries[0].keys.wrapping == SoftwareWrappingKey(KEK).wrap(b"\x22" * 16)


def test_an_import_is_resumed_after_what_is_stored() -> None:
    records = [(n, record(f"e{n}")) for n in range(1, 6)]
    entries = wrap_records(records, SoftwareWrappingKey(KEK), "fleet.v1", never, after=3)
    assert [entry.identity for entry in entries] == ["e4", "e5"]


def test_keys_stay_out_of_representations() -> None:
    assert "0505" not in repr(record("a", 5))
