"""What a caller may say about a scan that its files do not say themselves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamdgp.errors import DatasetError
from streamdgp.frames import Intrinsics

__all__ = ["ReaderOptions", "parse_options"]

_UNIT_M: Final = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_LAYOUT_COLUMNS: Final = {"xyz": 3, "xyzi": 4}


@dataclass(frozen=True)
class ReaderOptions:
    """Options of the readers; None leaves the format's own default.

    Parameters
    ----------
    intrinsics
        ``(fx, fy, cx, cy)`` in pixels, instead of the calibration file (depth folders).
    depth_scale
        Depth units per metre (7scenes 1000, tum 5000).
    min_range_m, max_range_m
        The sensor's usable range; measurements outside it are not used.
    color
        Read colour. Default: only where the format has it registered to depth (tum, clouds).
    unit
        ``m``, ``cm`` or ``mm``: unit of a cloud's coordinates and of its poses (points).
    layout
        ``xyz`` or ``xyzi``: what a ``.bin`` holds. A file does not say, so it is never guessed.
    lidar
        The clouds come from a LiDAR rather than a scanner (points).
    poses
        The pose file, where it is not in the folder (points, kitti).
    """

    intrinsics: tuple[float, float, float, float] | None = None
    depth_scale: float | None = None
    min_range_m: float | None = None
    max_range_m: float | None = None
    color: bool | None = None
    unit: str | None = None
    layout: str | None = None
    lidar: bool | None = None
    poses: Path | None = None

    def pinhole(self) -> Intrinsics | None:
        """The given intrinsics, or None."""
        return None if self.intrinsics is None else Intrinsics(*self.intrinsics)

    def unit_m(self) -> float:
        """Metres per unit of the files."""
        return _UNIT_M[self.unit or "m"]

    def range_m(self, minimum_m: float, maximum_m: float) -> tuple[float, float]:
        """The usable range, with the format's defaults where nothing was said."""
        return (
            minimum_m if self.min_range_m is None else self.min_range_m,
            maximum_m if self.max_range_m is None else self.max_range_m,
        )

    def bin_columns(self) -> int | None:
        """float32 values per point of a ``.bin``, or None where nothing was said."""
        return None if self.layout is None else _LAYOUT_COLUMNS[self.layout]


def parse_options(format_name: str, accepted: frozenset[str], given: dict[str, Any]) -> ReaderOptions:
    """Check the options given for one format.

    Raises
    ------
    DatasetError
        An option that the format does not have, or a value out of range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(ReaderOptions)}
    for name in given:
        if name not in known or name not in accepted:
            raise DatasetError(
                f"options of the format {format_name}: {', '.join(sorted(accepted))}",
                f"the option {name}",
                "Leave it out, or name another format.",
            )
    for name, values in (("unit", _UNIT_M), ("layout", _LAYOUT_COLUMNS)):
        if name in given and given[name] not in values:
            raise DatasetError(f"{name} one of {', '.join(values)}", repr(given[name]), "Choose one of them.")
    scale = given.get("depth_scale")
    if scale is not None and not 0 < scale < float("inf"):
        raise DatasetError(
            "a positive depth_scale (units per metre)", repr(scale), "For millimetres give 1000."
        )
    if "intrinsics" in given:
        given["intrinsics"] = tuple(float(value) for value in given["intrinsics"])
        if len(given["intrinsics"]) != 4:
            raise DatasetError(
                "intrinsics fx, fy, cx, cy", f"{len(given['intrinsics'])} numbers", "Give four, in pixels."
            )
    if "poses" in given:
        given["poses"] = Path(given["poses"])
    return ReaderOptions(**given)
