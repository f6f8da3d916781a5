"""A drive of some length: a frame looks at what is about it, and the map is as if it looked at everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.inside import snapshot_state, state_bytes
from benchmarks.scaling import Tunnel
from streamdgp.evidence.runs import Runs
from streamdgp.frames import Frame, PointFrame
from streamdgp.frames.view import SensorView
from streamdgp.reconstructor import Reconstructor
from streamdgp.simulate import LidarSensor

FRAMES = 40
STEP_M = 0.6
LIDAR = LidarSensor(24, 240, -40.0, 40.0, max_range_m=4.0, dropout_share=0.0)


def _drive(is_camera: bool) -> Iterator[Frame]:
    tunnel = Tunnel()
    for k in range(FRAMES):
        if is_camera:
            yield tunnel.frame(k, STEP_M, 7)
            continue
        pose = np.eye(4)
        pose[:3, 3] = [k * STEP_M, 0.1 * np.sin(0.37 * k), 0.1 * np.cos(0.23 * k)]
        points, _ = LIDAR.measure(tunnel.scene_at(k * STEP_M), pose, np.random.default_rng([7, k]))
        yield PointFrame(points[:, :3].astype(np.float32), pose, is_lidar=True)


@pytest.mark.parametrize("is_camera", [True, False])
def test_what_is_passed_over_would_have_changed_nothing(
    is_camera: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, in_view = list(_drive(is_camera)), Runs.in_view
    shares: list[float] = []

    def counted(self: Runs, view: SensorView, farthest_m: float) -> npt.NDArray[np.int64]:
        found = in_view(self, view, farthest_m)
        shares.append(len(found) / len(self))
        return found

    def whole(self: Runs, view: SensorView, farthest_m: float) -> npt.NDArray[np.int64]:
        return np.arange(len(self))

    states = []
    for look in (counted, whole):
        monkeypatch.setattr(Runs, "in_view", look)
        engine = Reconstructor()
        for frame in frames:
            engine.integrate(frame)
        states.append(state_bytes(snapshot_state(engine)))
    assert states[0] == states[1]
    assert engine.chart_count > 500
    assert len(shares) >= FRAMES, "blocks and charts of many frames"
    assert np.mean(shares[-10:]) < 0.5, "most of the map lies behind"


def test_a_restored_map_goes_on_as_the_one_that_was_stored() -> None:
    """Runs are made anew from what is stored, and reach as far."""
    frames = list(_drive(True))
    engine = Reconstructor()
    for frame in frames[: FRAMES // 2]:
        engine.integrate(frame)
    again = Reconstructor.restore(snapshot_state(engine))
    for frame in frames[FRAMES // 2 :]:
        engine.integrate(frame)
        again.integrate(frame)
    assert state_bytes(snapshot_state(engine)) == state_bytes(snapshot_state(again))
