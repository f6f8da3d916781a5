"""What is prepared ahead knows what will be taken of it; where it is wrong, only time is lost."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.inside import snapshot_state, state_bytes
from streamdgp.config import FitConfig, SceneConfig
from streamdgp.foresight import Foresight
from streamdgp.frames import Frame
from streamdgp.frames.orient import PreparedFrame, prepare_frame
from streamdgp.reconstructor import Reconstructor
from streamdgp.turns import Schedule
from tests.reference.scans import VOXEL_M
from tests.reference.shapes import Sphere, depth_frame, look_at

RADIUS_M = 4 * VOXEL_M
# In radii: still, a step of more than one, a jump, and slow.
PLACES = [*(5 * [0.0]), 1.2, 1.2, 1.2, 6.0, 6.0, 6.0, 6.0, *(6.0 + 0.3 * np.arange(9))]


def _frame(place: float, width: int = 160) -> Frame:
    shift_m = RADIUS_M * place
    pose = look_at(np.array([0.0, shift_m, -1.3]), np.array([0.0, shift_m, 0.0]))
    return depth_frame(
        Sphere(radius=0.3), pose, width=width, height=3 * width // 4, focal=width,
        rng=np.random.default_rng(0),
    )  # fmt: skip


def _prepared(place: float) -> PreparedFrame:
    return prepare_frame(_frame(place), 0.2)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_expected_is_what_comes_however_far_ahead(ahead: int) -> None:
    frames = [_prepared(place) for place in PLACES]
    foresight, schedule = Foresight(), Schedule(4, RADIUS_M)
    foresight.settle(frames[0], schedule)
    coming: deque[tuple[PreparedFrame, bool]] = deque()
    wrong = repeated = 0
    for frame in [*frames, *(ahead * [None])]:
        if frame is not None:
            coming.append((frame, foresight.expect(frame)))
        if len(coming) <= ahead and frame is not None:
            continue
        taken, expected = coming.popleft()
        look = schedule.look_frames(taken)
        wrong += expected != schedule.is_repetition(taken)
        repeated += expected
        schedule = schedule.after(taken, look)
        foresight.settle(taken, schedule)
    assert wrong == 0
    assert 3 < repeated < len(frames) - 3


def test_frames_that_never_come_are_forgotten() -> None:
    """One that was refused, and some that nobody took: from the next that is taken on all is known again."""
    foresight, schedule = Foresight(), Schedule(4, RADIUS_M)
    frames = [_prepared(0.0) for _ in range(5)]
    first, *lost, last = frames
    schedule = replace(schedule.after(first, 1), slow_turns=2)
    foresight.settle(first, schedule)
    for frame in [*lost, last]:
        foresight.expect(frame)
    assert schedule.look_frames(last) == 0
    foresight.settle(last, schedule.after(last, 0))
    # The second and third frame since the turn, and then its time.
    coming = [_prepared(0.0) for _ in range(3)]
    assert [foresight.expect(frame) for frame in coming] == [True, True, False]


def test_frames_that_nobody_takes_are_not_kept() -> None:
    one = Reconstructor()
    prepared = [weakref.ref(one.prepare(_frame(0.0))) for _ in range(3)]
    gc.collect()
    assert [frame() for frame in prepared] == [None, None, None]
    assert one.integrate(_frame(0.0)).points > 1000


def test_before_the_first_frame_nothing_is_expected_to_repeat() -> None:
    foresight = Foresight()
    assert not any(foresight.expect(_prepared(0.0)) for _ in range(5))


def test_how_far_ahead_frames_are_prepared_changes_no_bit() -> None:
    """Large ones, of which only some pixels count where they repeat; all of them by a thread, or none."""
    config = SceneConfig(evidence_voxel_m=VOXEL_M, anchor_radius_m=RADIUS_M, fit=FitConfig(most_waiting=4))
    frames = [_frame(place, 640) for place in [*(11 * [0.0]), 6.0, 6.0]]
    plain, ahead = Reconstructor(config), Reconstructor(config)
    points = [plain.integrate(frame).points for frame in frames]
    assert points[9] < points[8] / 10
    prepared: list[PreparedFrame] = []
    reader = threading.Thread(target=lambda: prepared.extend(ahead.prepare(frame) for frame in frames))
    reader.start()
    reader.join()
    assert [ahead.integrate(one).points for one in prepared] == points
    assert state_bytes(snapshot_state(ahead)) == state_bytes(snapshot_state(plain))
