"""The command: help with examples, one-line errors, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamdgp_client.cli import main


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", ["", "stream", "query-mesh", "scenes", "scenes list", "scenes show", "scenes delete"]
)
def test_help_shows_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"streamdgp-client {command}" in result.output.split("Example")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scenes", "list"), ["127.0.0.1:1", "UNAVAILABLE"]),
        (("scenes", "show", "../x"), ["'../x'", "path characters"]),
        (("scenes", "delete", "a/b"), ["'a/b'", "path characters"]),
        (("query-mesh", "--scene", "x", "-o", "mesh.xyz"), ["mesh.xyz", ".ply"]),
        (("query-mesh", "--scene", "x", "-o", "no-such-folder/m.ply"), ["no-such-folder"]),
        (("query-mesh", "--scene", "x", "-o", "m.ply"), ["127.0.0.1:1", "UNAVAILABLE"]),
        (("stream", "no-such-folder", "--scene", "x"), ["no-such-folder", "no such file or folder"]),
    ],
)
def test_an_error_is_one_line_and_status_1(
    arguments: tuple[str, ...], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMDGP_SERVER", "127.0.0.1:1")
    result = invoke(*arguments)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors == result.stderr.splitlines()[-1:]
    for word in words:
        assert word in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_box_of_five_numbers_is_a_usage_error(tmp_path: Path) -> None:
    result = invoke("query-mesh", "--scene", "x", "-o", tmp_path / "m.ply", "--roi", "1,2,3,4,5")
    assert result.exit_code == 2
    assert "six numbers" in result.stderr
