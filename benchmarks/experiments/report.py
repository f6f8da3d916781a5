"""What an experiment is, and the document that is made of all their figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Experiment", "Figures", "document", "markdown_table", "picture", "rounded"]

Figures = dict[str, Any]
_DIGITS = 5

_HEAD = """\
# The paper's experiments, as ours

The method of streamdgp is the Deep Geometric Prior
([Williams et al., CVPR 2019](https://arxiv.org/abs/1811.10943)), with a companion analysis of shallow ReLU
networks ([Williams et al., NeurIPS 2019](https://arxiv.org/abs/1906.07842)). Below are its experiments, done
with this library: on two scans of the surface reconstruction benchmark (no ground truth comes with them:
errors there are distances of points that were held out), on virtual scans and analytic surfaces where the
error is exact, and on curves.

`python -m benchmarks.experiments` makes this page, its pictures and [figures.json](experiments/figures.json)
again in about {minutes:.0f} minutes on two cores; it needs the benchmark data beside the checkout. Seeds are
fixed. The command below each experiment makes that one alone. The text is written by the same code, from the
numbers: where it compares, it says what was measured in that run.
"""


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it is called, how it is measured and how its figures read.

    ``measure`` draws its pictures into a folder and returns plain figures; ``describe`` writes Markdown from
    nothing but these figures.
    """

    name: str
    title: str
    measure: Callable[[Path], Figures]
    describe: Callable[[Figures], str]


def rounded(value: Any) -> Any:  # noqa: ANN401 - whatever JSON may hold
    """The value with five significant digits and plain types; None for numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column holds the labels."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(name: str, caption: str) -> str:
    """A picture of the folder, with what it shows."""
    return f"![{caption}](experiments/{name}.png)"


def _reflowed(text: str) -> str:
    """The text with paragraphs wrapped; tables, pictures and formulas stay as they are."""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(
        part if part.startswith(("|", "!", "    ")) else textwrap.fill(" ".join(part.split()), 118,
                                                                       break_long_words=False,
                                                                       break_on_hyphens=False)
        for part in parts
    )  # fmt: skip


def document(
    experiments: Sequence[Experiment], found: Mapping[str, Mapping[str, Any]], folder: str = "experiments"
) -> str:
    """The whole page from the figures of those experiments that have been measured.

    ``folder`` is the name of the folder of pictures beside the page.
    """
    minutes = sum(entry["seconds"] for entry in found.values()) / 60.0
    parts = [_HEAD.format(minutes=max(1.0, math.ceil(minutes)))]
    for number, experiment in enumerate(experiments, start=1):
        if experiment.name not in found:
            continue
        entry = found[experiment.name]
        command = f"`python -m benchmarks.experiments --only {experiment.name}` ({entry['seconds']:.0f} s)"
        text = _reflowed(experiment.describe(entry["figures"]))
        parts.append(f"## {number}. {experiment.title}\n\n{text}\n\n{command}\n")
    return "\n".join(parts).replace("](experiments/", f"]({folder}/")
