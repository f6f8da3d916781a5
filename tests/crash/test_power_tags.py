"""The power goes while revisions are named and cleared: a promised tag is there and can be read."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.store import AtlasStore
from tests.crash.power import Cut, PowerRecorder

Promise = tuple[int, int, dict[str, int]]
"""From this cut on: the newest revision, and the tags."""


def commit(store: AtlasStore) -> int:
    rows = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32)
    rows[:, 0] = store.latest_revision + 1
    return store.commit(AtlasChanges({"charts": TableChange({"weights": rows}, np.arange(400))}), {"next": 0})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cut], list[Promise]]:
    """Where the atlas was, every moment, and what had been promised since which."""
    root, scratch = tmp_path_factory.mktemp("session"), tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:
        recorder = PowerRecorder(root, scratch, patch)
        promises: list[Promise] = []
        tags: dict[str, int] = {}
        with closing(AtlasStore.create(root / "atlas")) as store:
            for _ in range(8):
                newest = commit(store)
                promises.append((len(recorder.cuts), newest, dict(tags)))
                if newest in (2, 5):
                    tags[f"at-{newest}"] = store.tag(f"at-{newest}").revision
                if newest == 7:
                    del tags["at-5"]  # promised neither way from now on
                    promises.append((len(recorder.cuts), newest, dict(tags)))
                    store.untag("at-5")
                promises.append((len(recorder.cuts), newest, dict(tags)))
                if newest > 3:
                    store.drop_before(newest - 1)
    return root, recorder.cuts, promises


def test_promised_tags_survive(recorded: tuple[Path, list[Cut], list[Promise]], tmp_path: Path) -> None:
    root, cuts, promises = recorded
    assert sum(cut.torn is not None for cut in cuts) > 12
    tried = with_tags = 0
    for k, cut in enumerate(cuts):
        held = [promise for promise in promises if promise[0] <= k]
        if not held or cut.objects is None:
            continue
        _, newest, tags = held[-1]
        for objects in {cut.objects, cut.torn or cut.objects}:
            directory, where = tmp_path / f"{k}-{tried}", f"moment {k} of {len(cuts)}, {objects}"
            shutil.copytree(objects, directory / "atlas")
            for path, content in cut.files.items():
                target = directory / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            with closing(AtlasStore.open(directory / "atlas")) as store:
                assert store.latest_revision >= newest, where
                assert store.tags().items() >= tags.items(), where
                for revision in (*store.tags().values(), newest):
                    weights = store.read(revision).state.tables["charts"]["weights"]
                    assert (weights[:, 0] == revision).all(), where
                commit(store)
                store.drop_before(store.latest_revision)
                assert set(tags.values()) <= {info.revision for info in store.tagged_revisions()}, where
            tried += 1
            with_tags += len(tags) > 0
            shutil.rmtree(directory)
    assert with_tags > 40
