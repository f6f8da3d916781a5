"""Whether a frame costs more in a large map: python -m benchmarks.scaling.

A small depth camera drives down an endless, furnished tunnel, so that every frame shows as much and adds as
much as any other while the map grows fifty times. Then: time per frame at both ends, what re-extraction
after one frame has to do, bytes per chart and per square metre. New charts per second are measured on frames
of which each shows a part of the tunnel that no other has shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from benchmarks.engine import map_bytes, map_split, warm_up
from benchmarks.methods import area_m2
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.frames import DepthFrame, FrameReport, Intrinsics
from streamdgp.meshes import RayScene, TriangleMesh
from streamdgp.reconstructor import Reconstructor
from streamdgp.simulate import DepthSensor
from streamdgp.simulate._paths import _camera_looking
from streamdgp.simulate._shapes import box, join
from streamdgp.surface import TileCache, TileMesh, weld_tiles

GROWTH = 50.0
LATE_RATIO = 1.2
NEW_CHARTS_GATE = 600.0
NEW_CHARTS_TARGET = 1500.0
_STEP_M = 0.1
_SIDE_M = 1.6
_RANGE_M = 2.5
_SECTION_M = 20.0
_SENSOR = DepthSensor(64, 48, 45.0, max_range_m=_RANGE_M, dropout_share=0)


class Tunnel:
    """A square tunnel along x with boxes on its floor and walls, made in sections as it is looked at."""

    def __init__(self, seed: int = 7) -> None:
        self._seed = seed
        self._number = -1
        self._scene: RayScene | None = None

    def _section(self, number: int) -> list[TriangleMesh]:
        """Boxes of one section, -1 being the first; the same every time."""
        rng = np.random.default_rng([self._seed, number + 1])
        parts = []
        for x in np.arange(0.3, _SECTION_M, 0.6):
            size = rng.uniform(0.15, 0.4, 3)
            y = rng.uniform(0.4, 0.7) * rng.choice([-1, 1]) * _SIDE_M / 2
            z = (size[2] - _SIDE_M) / 2 if rng.random() < 0.6 else rng.uniform(-0.2, 0.5)
            parts.append(box((number * _SECTION_M + x, y, z), size, rng.uniform(0, 1.5)))
        return parts

    def scene_at(self, x_m: float) -> RayScene:
        """What can be seen from there: the section and its neighbours."""
        number = int(x_m // _SECTION_M)
        if self._scene is None or number != self._number:
            self._number = number
            shell = box(((number + 0.5) * _SECTION_M, 0, 0), (3 * _SECTION_M, _SIDE_M, _SIDE_M))
            parts = [TriangleMesh(shell.vertices, shell.triangles[:, ::-1])]  # seen from inside
            for near in (number - 1, number, number + 1):
                parts += self._section(near)
            self._scene = RayScene(join(parts))
        return self._scene

    def frame(self, k: int, step_m: float, seed: int) -> DepthFrame:
        """The k-th frame of a drive by ``step_m`` a frame, looking ahead and about."""
        eye = np.array([k * step_m, 0.1 * np.sin(0.37 * k), 0.1 * np.cos(0.23 * k)])
        turn, lift = 0.5 * np.sin(0.41 * k), 0.35 * np.sin(0.29 * k)
        gaze = np.array([np.cos(turn) * np.cos(lift), np.sin(turn) * np.cos(lift), np.sin(lift)])
        pose = _camera_looking(eye, eye + gaze)
        depth_m, _ = _SENSOR.measure(self.scene_at(eye[0]), pose, np.random.default_rng([seed, k]))
        f = _SENSOR.focal_px
        camera = Intrinsics(f, f, _SENSOR.width / 2, _SENSOR.height / 2)
        return DepthFrame(depth_m.astype(np.float32), camera, pose, max_range_m=_RANGE_M)

    def drive(self, step_m: float, seed: int = 7) -> Iterator[DepthFrame]:
        """Frames without end."""
        k = 0
        while True:
            yield self.frame(k, step_m, seed)
            k += 1


@dataclass(frozen=True)
class Growth:
    """A stream into a growing map."""

    engine: Reconstructor
    reports: list[FrameReport]
    charts: npt.NDArray[np.int64]
    """Charts after each frame."""
    early: slice
    late: slice

    @property
    def ratio(self) -> float:
        """Median time of the late frames by that of the early ones."""
        return self._median_s(self.late) / self._median_s(self.early)

    def _median_s(self, part: slice) -> float:
        return float(np.median([report.seconds for report in self.reports[part]]))

    def row(self, name: str, part: slice) -> list[str]:
        """One end of the stream as a row."""
        reports = self.reports[part]
        counts = (
            np.mean([report.charts_created for report in reports]),
            np.mean([report.charts_warm + report.charts_cold for report in reports]),
        )
        return [
            name,
            f"{part.start} to {part.stop - 1}",
            f"{int(self.charts[part].mean())}",
            f"{1e3 * self._median_s(part):.1f}",
            f"{1e3 * float(np.mean([report.seconds for report in reports])):.1f}",
            *(f"{count:.1f}" for count in counts),
        ]


def grow(growth: float, window: int, settle: int, longest: int, step_m: float = _STEP_M) -> Growth:
    """Drive until the map is ``growth`` times as large as over the first window, and a window more.

    The first ``settle`` frames belong to no window: in them there is more to be seen for the first time.
    """
    engine, reports, charts, end = Reconstructor(), [], [], longest
    early = slice(settle, settle + window)
    for k, frame in enumerate(Tunnel().drive(step_m)):
        reports.append(engine.integrate(frame))
        charts.append(engine.chart_count)
        if k + 1 > early.stop and end == longest and charts[-1] >= growth * np.mean(charts[early]):
            end = min(longest, k + 1 + window)
        if k + 1 >= end:
            break
    return Growth(engine, reports, np.array(charts), early, slice(len(reports) - window, len(reports)))


class _CountingCache(TileCache):
    """Counts the tiles that had to be extracted."""

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.extracted: set[tuple[int, int, int]] = set()

    def put(self, tile: TileMesh, took_s: float) -> None:
        self.extracted.add(tile.index)
        super().put(tile, took_s)


def new_charts_per_second(frames: int) -> float:
    """On frames of which each shows what none has shown."""
    engine, tunnel = Reconstructor(), Tunnel(8)
    reports = [engine.integrate(tunnel.frame(k, 2 * _RANGE_M, 7)) for k in range(frames)]
    return sum(r.charts_created for r in reports[1:]) / sum(r.seconds for r in reports[1:])


def run(growth: float = GROWTH, window: int = 40, longest: int = 6000, fresh: int = 40) -> Result:
    """Grow a map, and measure at both ends."""
    first = Tunnel(9)
    warm_up(first.frame(k, _STEP_M, 7) for k in range(3))
    per_second = new_charts_per_second(fresh)
    grown = grow(growth, window, settle=5, longest=longest)
    engine = grown.engine
    factor = float(grown.charts[-1] / grown.charts[grown.early].mean())
    cache = _CountingCache()
    before = engine.surface()
    started = time.perf_counter()
    mesh = weld_tiles(before.tiles(cache=cache))
    whole_s = time.perf_counter() - started
    old = before.signatures()
    cache.extracted.clear()
    engine.integrate(Tunnel().frame(len(grown.reports), _STEP_M, 7))
    after = engine.surface()
    started = time.perf_counter()
    for _ in after.tiles(cache=cache):
        pass
    again_s = time.perf_counter() - started
    new = after.signatures()
    stale = {index for index, signature in new.items() if old.get(index) != signature}
    area, stored, split = area_m2(mesh), map_bytes(engine), map_split(engine)
    columns = ["", "frames", "charts", "ms median", "ms mean", "new charts", "refitted"]
    rows = [grown.row("early", grown.early), grown.row("late", grown.late)]
    tiles = Table(
        "tiles at the default resolution",
        ["", "tiles", "extracted", "s"],
        [
            ["the whole map", str(len(old)), str(len(old)), f"{whole_s:.2f}"],
            ["after one more frame", str(len(new)), str(len(cache.extracted)), f"{again_s:.2f}"],
        ],
    )
    parts = list(split)
    size = Table(
        f"size of the map: {engine.chart_count} charts, {area:.0f} m²",
        ["", *parts, "stored"],
        [
            ["bytes per chart", *(f"{split[p] / engine.chart_count:.0f}" for p in parts),
             f"{stored / engine.chart_count:.0f}"],
            ["bytes per m²", *(f"{split[p] / area:.0f}" for p in parts), f"{stored / area:.0f}"],
        ],
    )  # fmt: skip
    width, height = _SENSOR.width, _SENSOR.height
    return Result(
        "Scaling",
        [Table(f"a tunnel, frames of {width} x {height}: a map {factor:.0f} times as large", columns, rows),
         tiles, size],
        [
            Check("gate", "times that the map grew", factor, growth, False),
            Check("target", "time per frame, late / early (medians)", grown.ratio, LATE_RATIO),
            Check("gate", "new charts per second", per_second, NEW_CHARTS_GATE, False),
            Check("target", "new charts per second", per_second, NEW_CHARTS_TARGET, False),
            Check("gate", "tiles extracted again that were not stale", len(cache.extracted - stale), 0),
            Check("gate", "stale tiles not extracted again", len(stale - cache.extracted), 0),
        ],
        [f"{len(grown.reports)} frames; {len(stale)} of {len(new)} tiles were stale after one more"],
        {
            "growth": factor,
            "ratio": grown.ratio,
            "new_charts_per_s": per_second,
            "seconds": [report.seconds for report in grown.reports],
            "charts": grown.charts.tolist(),
            "stale_tiles": len(stale),
            "tiles": len(new),
            "split": split,
            "bytes_per_chart": stored / engine.chart_count,
            "bytes_per_m2": stored / area,
        },
    )  # fmt: skip


@click.command(epilog="Example: python -m benchmarks.scaling --growth 10")
@click.option("--growth", default=GROWTH, show_default=True, help="How many times the map grows.")
@click.option("--window", default=40, show_default=True, help="Frames at both ends that are compared.")
@click.option("--longest", default=6000, show_default=True, help="Frames at most.")
@click.option("--fresh", default=40, show_default=True, help="Frames for new charts per second.")
@json_option
def main(growth: float, window: int, longest: int, fresh: int, json_path: Path | None) -> None:
    """Grow a map fifty times and see whether a frame takes longer."""
    conclude(run(growth, window, longest, fresh), json_path)


if __name__ == "__main__":
    main()
