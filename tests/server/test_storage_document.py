"""``docs/storage.md``: its code runs, and its tables list what is really stored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdgp.reconstructor import Reconstructor
from streamdgp.store import AtlasStore
from streamdgp.wire import frame_from_proto
from tests.server.harness import make_frame

DOCUMENT = (Path(__file__).parents[2] / "docs" / "storage.md").read_text("utf-8")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reconstructor]:
    directory = tmp_path_factory.mktemp("scene")
    store = AtlasStore.create(directory / "atlas")
    reconstructor = Reconstructor()
    for number in (1, 2):
        reconstructor.integrate(frame_from_proto(make_frame(number)))
        store.commit(
            reconstructor.changes(), {"next": number}, frames=number, charts=reconstructor.chart_count
        )
        reconstructor.mark_committed()
    return directory, reconstructor


def test_the_code_runs_and_reads_the_atlas(scene: tuple[Path, Reconstructor]) -> None:
    directory, reconstructor = scene
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(snippets) == 2
    names: dict[str, Any] = {"scene_directory": directory}
    for snippet in snippets:
        exec(snippet, names)
    assert names["root"].attrs["revision"] == 2
    assert names["oldest"].attrs["revision"] == 1
    assert len(names["anchors_m"]) == reconstructor.chart_count
    radius = np.linalg.norm(names["points_m"], axis=1)
    assert np.abs(radius - 0.5).max() < 0.02  # the surfels lie on the sphere that was scanned
    # Half a step of 1/127 in every component, and what is left of those of the observations before.
    assert np.allclose(np.linalg.norm(names["normals"], axis=1), 1, atol=1e-3 + 1.5 * np.sqrt(3) / 2 / 127)


def test_every_column_and_attribute_is_documented(scene: tuple[Path, Reconstructor]) -> None:
    stored = AtlasStore.open(scene[0] / "atlas", read_only=True).read()
    for table, columns in stored.state.tables.items():
        section = DOCUMENT.split(f"Table `{table}`")[1].split("\n\n")[1]
        first_cells = [line.split("|")[1] for line in section.splitlines()[2:]]
        documented = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
        assert documented == set(columns), table
    arrays = [name for name in stored.state.arrays if not name.startswith("shared_")]
    assert arrays
    assert all(f"`{name}`" in DOCUMENT for name in arrays)
    metadata_line = next(line for line in DOCUMENT.splitlines() if line.startswith("| `metadata`"))
    assert set(re.findall(r"`(\w+)`", metadata_line)) - {"metadata"} == set(stored.state.metadata)
