"""One table over all benchmarks: a row per scene and method, as Markdown, JSON and a section of README."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import read_result
from streamdgp.errors import DatasetError, InvalidInputError

__all__ = ["BEGIN", "COLUMNS", "END", "collect", "summary_markdown", "update_readme", "write_summary"]

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
Row = dict[str, Any]

# Key in the rows, heading, format.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("mean_mm", "mean mm", ".3g"),
    ("median_mm", "median", ".3g"),
    ("p95_mm", "p95", ".3g"),
    ("p99_mm", "p99", ".3g"),
    ("completeness", "completeness", ".3f"),
    ("f_score", "F", ".4f"),
    ("normal_consistency", "normals", ".3f"),
    ("ms_per_frame", "ms per frame", ".0f"),
    ("total_s", "total s", ".1f"),
    ("peak_mb", "peak MB", ".0f"),
    ("map_bytes", "map MB", ".1f"),
)
_PAPER = "the paper's network and schedule"
_INTRODUCTION = (
    "Accuracy is the distance of the surface to the truth; completeness the share of what was seen that the"
    " surface comes close to, F joins it with precision, at the scene's threshold (objects and thin things"
    " 4 mm, the small scan 2 cm, street 10 cm, bunny 2 mm). The room has no truth: its lengths are errors of"
    " predicted depth and its completeness the share of rays that hit. Each method runs in a process of its"
    " own; peak memory is the whole process's, libraries included. Poisson needs all frames at once and has"
    " no map. The paper's network and schedule take about half a second a chart, so they run on the small"
    " scan alone."
)


def collect(out: Path) -> list[Row]:
    """The rows of all benchmarks whose figures lie in a folder, in the order of their scenes."""
    rows: list[Row] = []
    for name in ("object", "thin", "room", "street", "bunny", "srb"):
        path = out / f"{name}.json"
        if path.is_file():
            rows += read_result(path).figures.get("summary", [])
    return rows


def summary_markdown(rows: Sequence[Row], *, with_paper: bool = True) -> str:
    """The table; a dash stands for what a method has not, or was not run on.

    ``with_paper`` gives every scene a row for the paper's procedure, also where it was not run.
    """
    lines = [
        "| scene | method | " + " | ".join(heading for _, heading, _ in COLUMNS) + " |",
        "|---|---|" + "---:|" * len(COLUMNS),
    ]
    scene = None
    for row in _with_paper(rows) if with_paper else rows:
        shown = row["scene"] if row["scene"] != scene else ""
        scene = row["scene"]
        cells = (_cell(row, key, form) for key, _, form in COLUMNS)
        lines.append(f"| {shown} | {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_paper(rows: Sequence[Row]) -> list[Row]:
    """The rows, and an empty one for the paper's procedure in every scene where it was not run."""
    full: list[Row] = []
    for k, row in enumerate(rows):
        full.append(row)
        is_last = k + 1 == len(rows) or rows[k + 1]["scene"] != row["scene"]
        ran = any(other["scene"] == row["scene"] and other["method"] == _PAPER for other in rows)
        if is_last and not ran:
            full.append({"scene": row["scene"], "method": _PAPER})
    return full


def _cell(row: Row, key: str, form: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    number = value / 1e6 if key == "map_bytes" else value
    if form == ".3g" and number >= 100:
        return f"{number:.0f}"
    return format(number, form)


def write_summary(out: Path) -> list[Row]:
    """Write summary.md and summary.json from the figures in a folder."""
    rows = collect(out)
    (out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = f"# Summary\n\n{_INTRODUCTION}\n\n{summary_markdown(rows)}"
    (out / "summary.md").write_text(text, encoding="utf-8")
    return rows


def update_readme(readme: Path, summary: Path) -> None:
    """Replace what stands between README's markers by the table of a summary.json.

    Raises
    ------
    DatasetError
        There is no such summary.
    InvalidInputError
        The markers are not there once each, in their order.
    """
    if not summary.is_file():
        raise DatasetError(f"a summary {summary}", "no such file", "Run python -m benchmarks first.")
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise InvalidInputError(
            f"{BEGIN} and {END} once each in {readme.name}", "others", "Put them around the section."
        )
    table = summary_markdown(json.loads(summary.read_text(encoding="utf-8")), with_paper=False)
    readme.write_text(f"{before}{BEGIN}\n{_INTRODUCTION}\n\n{table}{END}{after}", encoding="utf-8")
