"""What a benchmark found: tables, checks against the gates and targets, JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

__all__ = ["Check", "Result", "Table", "conclude", "json_option", "markdown", "read_result"]

_WIDTH = 200  # tables are wide; a narrow terminal wraps them


@dataclass(frozen=True)
class Check:
    """One line of the issue: a gate must hold, a target is reached or reported as missed."""

    kind: Literal["gate", "target"]
    what: str
    value: float
    limit: float
    at_most: bool = True
    """The value may be at most, otherwise at least, the limit."""

    @property
    def holds(self) -> bool:
        """Whether the value keeps to the limit; NaN never does."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        relation = "<=" if self.at_most else ">="
        verdict = "holds" if self.holds else "MISSED"
        return f"{self.kind} {verdict}: {self.what} {self.value:.5g} {relation} {self.limit:.5g}"


@dataclass(frozen=True)
class Table:
    """Rows of text under column names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """All that one benchmark found; ``figures`` holds its numbers unrounded."""

    name: str
    tables: Sequence[Table]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option ``--json FILE``, handed over as ``json_path``."""
    return click.option(
        "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures."
    )(command)


def conclude(result: Result, json_path: Path | None) -> None:
    """Print a result, write it as JSON, and exit with 1 when a gate is missed."""
    console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    for table in result.tables:
        shown = RichTable(title=table.title, title_justify="left", box=SIMPLE)
        for k, column in enumerate(table.columns):
            shown.add_column(column, no_wrap=True, justify="right" if k else "left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in [*result.notes, *(str(check) for check in result.checks)]:
        console.print(line, markup=False)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(_plain(asdict(result)), indent=1) + "\n", encoding="utf-8")
    if any(check.kind == "gate" and not check.holds for check in result.checks):
        raise click.exceptions.Exit(1)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON may hold
    """The value with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path) -> Result:
    """Read what ``conclude`` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    checks = [
        Check(**{**check, "value": float("nan") if check["value"] is None else check["value"]})
        for check in stored["checks"]
    ]
    return Result(
        stored["name"],
        [Table(**table) for table in stored["tables"]],
        checks,
        stored["notes"],
        stored["figures"],
    )


def markdown(result: Result) -> str:
    """The result as Markdown: its tables, notes and checks."""
    parts = [f"## {result.name}", ""]
    for table in result.tables:
        parts += [f"**{table.title}**", "", _row(table.columns), _row(["---"] * len(table.columns))]
        parts += [_row(row) for row in table.rows]
        parts.append("")
    parts += [f"- {line}" for line in [*result.notes, *(str(check) for check in result.checks)]]
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
