"""The benchmarks one after the other: python -m benchmarks (what ``make bench`` runs).

Each runs in a process of its own, so that none inherits another's memory or native libraries. Their
figures go to bench-out/NAME.json, all tables together to bench-out/table.md, and one table over all scenes
and methods to bench-out/summary.md and summary.json. A whole run, or ``--readme`` after others, puts that one
into README.md, where the markers say. ``session`` streams for over an hour, and nothing in README or docs is
made from it: it runs only where it is asked for.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.results import markdown, read_result
from benchmarks.summary import update_readme, write_summary

# Name, arguments, whether it writes its figures with --json (the others only print).
PLAN: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("object", ("--check-bench",), True),
    ("thin", (), True),
    ("room", (), True),
    ("street", (), True),
    ("bunny", (), True),
    ("srb", (), True),
    ("removed_box", (), True),
    ("scaling", (), True),
    ("stream", (), True),
    ("turns", (), True),
    ("query", (), True),
    ("ingest", (), True),
    ("recovery", ("--frames", "500"), True),
    ("session", (), True),
    ("fit_speed", (), False),
    ("transport_ablation", (), False),
    ("ablations", (), True),
    ("pictures", (), False),
    ("experiments", (), False),
)
LONG = ("session",)
_README = Path(__file__).resolve().parents[1] / "README.md"


def run_one(name: str, arguments: tuple[str, ...], writes_json: bool, out: Path) -> tuple[bool, str]:
    """Run one benchmark; whether its gates hold, and its Markdown."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    figures = out / f"{name}.json"
    figures.unlink(missing_ok=True)
    if writes_json:
        holds = subprocess.run([*command, "--json", str(figures)], check=False).returncode == 0
        # Without figures it broke down; what it said is on the terminal.
        text = markdown(read_result(figures)) if figures.exists() else f"## {name}\n\nfailed\n"
        return holds, text
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    click.echo(done.stdout + done.stderr)
    (out / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
    return done.returncode == 0, f"## {name}\n\n```\n{done.stdout.rstrip()}\n```\n"


@click.command(epilog="Example: python -m benchmarks --only room,street")
@click.option("--only", default="", help=f"Names by commas. Default: all but {', '.join(LONG)}.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("bench-out"), show_default=True
)
@click.option("--readme", is_flag=True, help="Only put the summary of the last run into README.md.")
def main(only: str, out: Path, readme: bool) -> None:
    """Run the benchmarks; exits with 1 when a gate is missed.

    The one that is left out streams for over an hour.
    """
    if readme:
        update_readme(_README, out / "summary.json")
        click.echo(f"{_README.name} holds the figures of {out / 'summary.json'}")
        return
    wanted = only.split(",") if only else [name for name, _, _ in PLAN if name not in LONG]
    unknown = set(wanted) - {name for name, _, _ in PLAN}
    if unknown:
        raise click.BadParameter(f"no benchmark {', '.join(sorted(unknown))}", param_hint="--only")
    out.mkdir(parents=True, exist_ok=True)
    missed, texts = [], []
    for name, arguments, writes_json in PLAN:
        if name not in wanted:
            continue
        click.echo(f"== {name}")
        started = time.perf_counter()
        holds, text = run_one(name, arguments, writes_json, out)
        click.echo(f"== {name}: {time.perf_counter() - started:.0f} s\n")
        texts.append(text)
        if not holds:
            missed.append(name)
    (out / "table.md").write_text("\n".join(texts), encoding="utf-8")
    rows = write_summary(out)
    click.echo(f"figures, {out / 'table.md'} and {out / 'summary.md'} ({len(rows)} rows) written")
    if not only:
        update_readme(_README, out / "summary.json")
    if missed:
        raise click.ClickException(f"a gate is missed in {', '.join(missed)}")


if __name__ == "__main__":
    main()
