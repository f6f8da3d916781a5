"""Arrays under a budget: what is put on disk comes back as it was, and a map is the same with and without."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasState
from streamdgp.config import SceneConfig
from streamdgp.errors import StorageError
from streamdgp.memory import MemoryBudget, PagedMemory
from streamdgp.reconstructor import Reconstructor
from tests.reference.arrays import PlainArrays
from tests.reference.scans import depth_frame, look_at
from tests.reference.shapes import Plane

_MB = 1 << 20


def _filled(memory: PagedMemory, name: str, seed: int) -> np.ndarray:
    array = memory.grown(name, np.zeros((0, 256), np.float64), 4000)
    array[:] = np.random.default_rng(seed).normal(size=array.shape)
    return array


def test_what_is_evicted_comes_back_also_when_it_was_written_to(tmp_path: Path) -> None:
    memory = MemoryBudget(16 * _MB).memory(tmp_path)
    array = _filled(memory, "a/x", 0)
    wanted = array.copy()
    region = memory.regions()[0]
    every = np.arange(len(region.stamp))
    for turn in range(3):
        assert region.resident_bytes(0).sum() >= array.nbytes
        region.evict(every)
        assert region.resident_bytes(0).sum() == 0
        array[turn::7] += 1.0
        wanted[turn::7] += 1.0
        region.evict(every[::2])
        np.testing.assert_array_equal(array, wanted)
    larger = memory.grown("a/x", array, 9000)
    np.testing.assert_array_equal(larger[:4000], wanted)
    assert not larger[4000:].any()
    assert not list(tmp_path.iterdir()), "the scratch file has no name"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    budget = MemoryBudget(16 * _MB)
    memory = budget.memory(tmp_path)
    arrays = [_filled(memory, f"{name}/x", seed) for seed, name in enumerate("abcd")]
    for name in "cabd":
        memory.touch(name, np.arange(4000))
    wanted = [array.copy() for array in arrays]
    budget.relieve()
    resident = dict(zip("abcd", (int(r.resident_bytes(0).sum()) for r in memory.regions()), strict=True))
    assert sum(resident.values()) <= budget.max_bytes
    assert resident["c"] == 0
    assert resident["d"] >= arrays[3].nbytes
    for array, values in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(array, values)


def test_a_scene_that_is_being_written_to_is_relieved_afterwards(tmp_path: Path) -> None:
    budget = MemoryBudget(16 * _MB)
    memory = budget.memory(tmp_path)
    arrays = [_filled(memory, f"{name}/x", seed) for seed, name in enumerate("abcd")]
    assert budget.resident_bytes() > budget.max_bytes
    with memory.writing():
        other = threading.Thread(target=budget.relieve)
        other.start()
        other.join()
        assert budget.resident_bytes() >= sum(array.nbytes for array in arrays)
    # The process has not grown since; what could not be done is made up for all the same.
    budget.relieve()
    assert budget.resident_bytes() <= budget.max_bytes


def test_lists_keep_what_somebody_holds_and_use_slots_again(tmp_path: Path) -> None:
    paged = MemoryBudget(16 * _MB).memory(tmp_path).array_list("charts/raster", (5,))
    plain = PlainArrays()
    rng = np.random.default_rng(0)
    held = []
    for turn in range(200):
        for arrays in (paged, plain):
            arrays.extend_empty(3)
        chosen = rng.choice(len(plain), 3, replace=False)
        values = list(rng.normal(size=(3, 5)).astype(np.float32))
        paged.put(chosen, values)
        plain.put(chosen, values)
        held.append((paged.held(), plain.held()))
        held = held[-2:]
        for ours, theirs in (*held, (paged, plain)):
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
        if turn == 150:
            most = paged._used
    assert paged._used <= most + 3 * 50, "replaced arrays serve again"


def test_a_directory_that_takes_no_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"scratch file in .*missing"):
        MemoryBudget(16 * _MB).memory(tmp_path / "missing")


def _walk(reconstructor: Reconstructor, begin: int, end: int) -> Reconstructor:
    floor = Plane((0, 0, 0.001), (0, 0, 1))
    for k in range(begin, end):
        reconstructor.integrate(depth_frame(floor, look_at((0.3 * k, 0, 0.7), (0.3 * k, 0.01, 0))))
    return reconstructor


def _bytes_of(reconstructor: Reconstructor) -> str:
    digest = hashlib.sha256()
    for _, table in sorted(reconstructor.changes().tables.items()):
        for _, column in sorted(table.columns.items()):
            digest.update(np.ascontiguousarray(column).tobytes())
    for tile in reconstructor.surface().tiles():
        digest.update(tile.vertices.tobytes() + tile.triangles.tobytes())
    return digest.hexdigest()


def test_a_map_is_the_same_under_a_budget(tmp_path: Path) -> None:
    config = SceneConfig(evidence_voxel_m=0.008, resolution_m=0.008)
    wanted = _bytes_of(_walk(Reconstructor(config), 0, 16))
    budget = MemoryBudget(16 * _MB)
    half = _walk(Reconstructor(config, memory=budget.memory(tmp_path)), 0, 8)
    shown = half.surface()
    before = [tile.vertices.tobytes() for tile in shown.tiles()]
    changes = half.changes()
    tables = {
        name: {column: values.copy() for column, values in table.columns.items()}
        for name, table in changes.tables.items()
    }
    again = Reconstructor.restore(
        AtlasState(tables, dict(changes.arrays), dict(changes.metadata)), memory=budget.memory(tmp_path)
    )
    assert _bytes_of(_walk(half, 8, 16)) == wanted
    assert budget.evicted_bytes > 0, "nothing was tested"
    assert [tile.vertices.tobytes() for tile in shown.tiles()] == before, "a snapshot has changed"
    assert _bytes_of(_walk(again, 8, 16)) == wanted
