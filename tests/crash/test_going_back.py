"""A scene whose newest revisions are damaged, or whose branch has lost them, and digests as documented."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing
from pathlib import Path

import icechunk
import pytest
import zarr

from streamdgp.config import SceneConfig
from streamdgp.errors import StorageError
from streamdgp.store import AtlasStore
from streamdgp_server.fit_worker import CommitPolicy
from streamdgp_server.scene_engine import open_scene
from streamdgp_server.scene_files import create_scene
from tests.crash.running import Running, fingerprint

_FRAMES = 5
_POLICY = CommitPolicy(idle_seconds=0.0, max_frames=1, keep_frames=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A scene with a revision for each frame, all frames kept; what it comes to."""
    directory = create_scene(tmp_path_factory.mktemp("whole"), "test", SceneConfig())
    running = Running(open_scene(directory, "cpu", 4000), _POLICY)
    for number in range(1, _FRAMES + 1):
        running.wait_applied(running.append(number))
    running.close()
    assert running.scene.store.latest_revision == _FRAMES
    return directory, fingerprint(running.scene.reconstructor)


def copied(whole: tuple[Path, str], target: Path) -> Path:
    return Path(shutil.copytree(whole[0], target / "test"))


def history(directory: Path) -> list[str]:
    """The snapshots of all revisions, oldest first."""
    with closing(AtlasStore.open(directory / "atlas", read_only=True)) as store:
        return [info.snapshot_id for info in store.revisions()]


def reference(directory: Path) -> Path:
    return directory / "atlas" / "icechunk" / "refs" / "branch.main" / "ref.json"


def outcome(directory: Path) -> tuple[int, str]:
    """Revision and fingerprint once all is applied."""
    running = Running(open_scene(directory, "cpu", 4000), _POLICY)
    running.wait_applied(running.scene.log.end_position)
    running.close()
    return running.scene.store.latest_revision, fingerprint(running.scene.reconstructor)


@pytest.mark.parametrize("way", ["moved back", "missing", "unknown"])
def test_a_branch_is_put_right(whole: tuple[Path, str], tmp_path: Path, way: str) -> None:
    """Without the note of what was synced, a branch moved back looks like an atlas of fewer frames."""
    directory = copied(whole, tmp_path)
    snapshots = history(directory)
    match way:
        case "moved back":
            reference(directory).write_text(json.dumps({"snapshot": snapshots[2]}))
        case "missing":
            reference(directory).unlink()
        case "unknown":
            reference(directory).write_text(json.dumps({"snapshot": snapshots[2][::-1]}))
    with pytest.raises(StorageError):
        AtlasStore.open(directory / "atlas", read_only=True)
    assert outcome(directory) == (_FRAMES, whole[1])
    assert history(directory) == snapshots


@pytest.mark.parametrize("frames_are_there", [True, False])
def test_several_damaged_revisions(whole: tuple[Path, str], tmp_path: Path, frames_are_there: bool) -> None:
    directory = copied(whole, tmp_path)
    if not frames_are_there:
        with closing(open_scene(directory, "cpu", 1)) as scene:
            scene.log.append([scene.log.read(0)])  # so that the segment before is not the last one
            scene.log.drop_payloads(_FRAMES)
    with closing(AtlasStore.open(directory / "atlas", read_only=True)) as store:
        since_s = store.revisions()[-2].created.timestamp()
    for path in (directory / "atlas" / "icechunk" / "chunks").iterdir():
        if path.stat().st_mtime >= since_s:
            path.write_bytes(b"")
    with closing(AtlasStore.open(directory / "atlas", read_only=True)) as store:
        store.read(_FRAMES - 2)
        for number in (_FRAMES - 1, _FRAMES):
            with pytest.raises(StorageError):
                store.read(number)
    if frames_are_there:
        assert outcome(directory)[1] == whole[1]
    else:
        with pytest.raises(StorageError, match=rf"read \(revision {_FRAMES}, table"):
            open_scene(directory, "cpu", 4000)


def test_digests_are_those_of_the_document(whole: tuple[Path, str]) -> None:
    """Computed here by docs/storage.md alone."""
    storage = icechunk.local_filesystem_storage(str(whole[0] / "atlas" / "icechunk"))
    repository = icechunk.Repository.open(storage)
    snapshot = next(iter(repository.ancestry(branch="main")))
    root = zarr.open_group(repository.readonly_session("main").store, mode="r")
    attributes = dict(root.attrs)
    seen = 0
    for path, entry in attributes["digests"].items():
        array = root[path]
        values = array[...]
        rows = array.chunks[0]
        pages = [values[k : k + rows] for k in range(0, len(values), rows)]
        if not path.startswith("tables/"):
            pages = [values]  # an empty one, too
        digests = [
            hashlib.sha256(page.tobytes() + f"{page.shape} {page.dtype.str}".encode()).digest()
            for page in pages
        ]
        assert entry == {
            "shape": list(values.shape),
            "sha256": hashlib.sha256(b"".join(digests)).hexdigest()[:32],
        }
        seen += 1
    assert seen > 20

    def sealed(content: object) -> str:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    metadata = dict(snapshot.metadata)
    assert metadata["attributes_sha256"] == sealed(attributes)
    assert metadata.pop("sha256") == sealed({**metadata, "message": snapshot.message})


def test_a_log_without_its_first_segment_is_an_error(whole: tuple[Path, str], tmp_path: Path) -> None:
    """Its numbers would be missing from what each producer has used, though no frame is needed any more."""
    directory = copied(whole, tmp_path)
    min((directory / "log").glob("*.seg")).unlink()
    with pytest.raises(StorageError, match="a segment that starts at record 0"):
        open_scene(directory, "cpu", 4000)
