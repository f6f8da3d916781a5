"""The paper's experiments: python -m benchmarks.experiments.

Writes pictures and figures.json into a folder and the page beside it (docs/experiments.md for
docs/experiments). With ``--only``, the other experiments' figures stay, and the page is made of all.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

from benchmarks.experiments import (
    baselines,
    chart,
    consistency,
    crease,
    curves,
    distortion,
    interpolation,
    kernel,
    scaling,
    stopping,
)
from benchmarks.experiments.report import Experiment, document, rounded

__all__ = ["EXPERIMENTS", "main"]

EXPERIMENTS: tuple[Experiment, ...] = tuple(
    module.EXPERIMENT
    for module in (
        chart,
        curves,
        consistency,
        stopping,
        crease,
        scaling,
        kernel,
        distortion,
        interpolation,
        baselines,
    )
)


@click.command(epilog="Example: python -m benchmarks.experiments --only kernel,crease")
@click.option("--only", default="", help="Names by commas. Default: all.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("docs/experiments"),
    show_default=True,
    help="Folder of pictures and figures; the page is written beside it.",
)
@click.option("--text-only", is_flag=True, help="Write the page again from the figures that are there.")
def main(only: str, out: Path, text_only: bool) -> None:
    """Run the experiments and write their page."""
    names = [experiment.name for experiment in EXPERIMENTS]
    wanted = only.split(",") if only else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise click.BadParameter(
            f"no experiment {', '.join(unknown)}; there are {', '.join(names)}", param_hint="--only"
        )
    torch.set_num_threads(1)
    store = out / "figures.json"
    found = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for experiment in EXPERIMENTS:
        if text_only or experiment.name not in wanted:
            continue
        click.echo(f"== {experiment.name}: {experiment.title}")
        started, started_cpu = time.perf_counter(), time.process_time()
        figures = rounded(experiment.measure(out))
        # On a machine that others keep busy, processor time says better what it would take.
        seconds = min(time.perf_counter() - started, time.process_time() - started_cpu)
        found[experiment.name] = {"seconds": round(seconds, 1), "figures": figures}
        store.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        click.echo(experiment.describe(figures))
        click.echo(f"== {experiment.name}: {seconds:.0f} s\n")
    page = out.with_suffix(".md")
    page.write_text(document(EXPERIMENTS, found, out.name), encoding="utf-8")
    click.echo(f"{page} and {store} written")


if __name__ == "__main__":
    main()
