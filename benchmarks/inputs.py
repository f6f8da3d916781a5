"""Where the benchmarks' scans come from: the shared data, and the shared tool that makes virtual scans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from streamdgp.errors import DatasetError, StreamdgpError

__all__ = ["run_bench", "shared_data"]

_BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(*parts: str) -> Path:
    """A file or folder of the shared scans: ``../shared/data``, or where ``STREAMDGP_DATA`` says.

    Raises
    ------
    click.ClickException
        It is not there: a benchmark ends with a line that says so.
    """
    path = Path(os.environ.get("STREAMDGP_DATA", _BESIDE_CHECKOUT)).joinpath(*parts)
    if not path.exists():
        missing = DatasetError(
            f"the shared scan {path}", "no such path", "Put it there, or set STREAMDGP_DATA."
        )
        raise click.ClickException(str(missing))
    return path


def run_bench(*arguments: str | Path) -> dict[str, Any]:
    """Run the independent tool ``bench.py`` (beside the data, in ``tools``); what it prints, {} for nothing.

    Raises
    ------
    click.ClickException
        The tool is not there, or it failed.
    """
    tool = shared_data().resolve().parent / "tools" / "bench.py"
    if not tool.is_file():
        missing = DatasetError(
            f"the tool {tool}", "no such file", "Put the shared folder beside the checkout."
        )
        raise click.ClickException(str(missing))
    done = subprocess.run([sys.executable, tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        failed = StreamdgpError(
            f"{tool.name} {arguments[0]} to work", done.stderr.strip()[-500:], "Run it by hand."
        )
        raise click.ClickException(str(failed))
    # Open3D's warnings come on the same stream.
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    answer: dict[str, Any] = json.loads(answers[-1]) if answers else {}
    return answer
