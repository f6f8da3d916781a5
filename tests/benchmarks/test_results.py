"""Checks, tables and JSON of the benchmarks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import pytest

from benchmarks.results import Check, Result, Table, conclude, markdown, read_result


def _result(*checks: Check) -> Result:
    return Result("Room", [Table("kitchen", ["", "mm"], [["ours", "8.1"]])], checks, ["a note"], {"a": [1.5]})


@pytest.mark.parametrize(
    ("value", "at_most", "holds"),
    [(1.0, True, True), (1.1, True, False), (1.0, False, True), (0.9, False, False), (math.nan, True, False)],
)
def test_a_check_holds_up_to_its_limit(value: float, at_most: bool, holds: bool) -> None:
    check = Check("gate", "ratio", value, 1.0, at_most)
    assert check.holds is holds
    assert ("holds" if holds else "MISSED") in str(check)


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "room.json"
    missed_target = Check("target", "ratio", math.nan, 1.0)
    conclude(_result(missed_target), path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    read = read_result(path)
    assert (read.name, read.figures, list(read.notes)) == ("Room", {"a": [1.5]}, ["a note"])
    assert not read.checks[0].holds
    assert markdown(read) == markdown(_result(missed_target))


def test_a_missed_gate_ends_with_1(tmp_path: Path) -> None:
    with pytest.raises(click.exceptions.Exit) as caught:
        conclude(_result(Check("gate", "ratio", 2.0, 1.0)), tmp_path / "room.json")
    assert caught.value.exit_code == 1
    assert (tmp_path / "room.json").exists()


def test_markdown_holds_tables_and_verdicts() -> None:
    text = markdown(_result(Check("gate", "ratio", 2.0, 1.0)))
    assert "| ours | 8.1 |" in text
    assert "gate MISSED: ratio 2 <= 1" in text
