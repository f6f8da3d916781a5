"""How the pictures look: one width, one palette, small files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["COLORS", "GREY", "METHOD_COLORS", "cumulative", "drawing", "log_log_slope"]

_WIDTH_INCHES = 9.0
_DPI = 100
_PALETTE_SIZE = 192

# Okabe and Ito's palette: told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
METHOD_COLORS = {
    "lazy": COLORS[0],
    "active": COLORS[1],
    "paper": COLORS[2],
    "Poisson": COLORS[3],
    "EAR stand-in": COLORS[4],
    "TSDF": COLORS[5],
    "independent charts": GREY,
}

_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=list(COLORS)),
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "figure.dpi": _DPI,
}


@contextmanager
def drawing(folder: Path, name: str, height_inches: float) -> Iterator[Figure]:
    """A figure 900 pixels wide that is saved as ``name``.png when the block ends.

    Colours are reduced to a palette, which keeps a picture at some tens of kilobytes.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        yield figure
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=_DPI)
    raw.seek(0)
    folder.mkdir(parents=True, exist_ok=True)
    palette = Image.open(raw).convert("RGB").quantize(_PALETTE_SIZE, dither=Image.Dither.NONE)
    palette.save(folder / f"{name}.png", format="PNG", optimize=True)


def cumulative(axes: Axes, errors: np.ndarray, largest: float, **style: Any) -> None:  # noqa: ANN401
    """Percentage of points (K,) within a given error, up to ``largest``."""
    grid = np.linspace(0.0, largest, 241)
    share = np.searchsorted(np.sort(errors), grid, side="right") / max(1, len(errors))
    axes.plot(grid, 100.0 * share, **style)


def log_log_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Exponent of the power law through (x, y), by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
