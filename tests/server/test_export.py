"""A scene goes through one file and is the same; nothing else that looks like such a file becomes a scene."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamdgp.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StorageError
from streamdgp.store import DirectoryLock, FrameLog, LogRecord, RecordKind
from streamdgp.v1 import scene_service_pb2
from streamdgp_server.exporting import export_scene
from streamdgp_server.importing import import_scene
from tests.server.harness import (
    ServerProcess,
    Stream,
    create_coarse_scene,
    get_mesh,
    make_frame,
    mesh_bytes,
    send_scan,
)

FRAMES = 6
Members = dict[str, bytes]


def run_server(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamdgp_server", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def meshes(server: ServerProcess, scene: str) -> dict[int, bytes]:
    """Of every revision that can be read, through the real server."""
    request = scene_service_pb2.ListRevisionsRequest(scene=scene)
    numbers = [revision.number for revision in server.scenes.ListRevisions(request).revisions]
    return {number: mesh_bytes(get_mesh(server, scene, revision=number))[1] for number in numbers}


@dataclass(frozen=True)
class Exported:
    """A data directory with the scene ``test``, the file of it, and what queries returned."""

    data: Path
    file: Path
    meshes: dict[int, bytes]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    data, file = folder / "data", folder / "test.sdgp"
    with ServerProcess(data, "--keep-revisions", "2") as server:
        create_coarse_scene(server)
        stream = Stream(server)
        for number in range(1, FRAMES + 1):
            stream.send_frames(make_frame(number))
            stream.wait_applied(number)
            if number == 1:
                server.scenes.CreateTag(
                    scene_service_pb2.CreateTagRequest(scene="scenes/test", tag_id="begin")
                )
        stream.finish()
        seen = meshes(server, "scenes/test")
        done = run_server("export", data, "test", "-o", file)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "one writer for" in done.stderr
        assert "Stop that server or check first, and start it again after the export" in done.stderr
        assert not list(folder.glob("*.sdgp*"))
    done = run_server("export", data, "test", "-o", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}: test, revision {FRAMES}, ")
    assert 1 in seen
    assert 2 not in seen
    return Exported(data, file, seen)


def test_round_trip(exported: Exported, tmp_path: Path) -> None:
    """Beside the original, with and without frames: the same surfaces, and the stream goes on alike."""
    data, small = tmp_path / "data", tmp_path / "small.sdgp"
    shutil.copytree(exported.data, data)
    done = run_server("import", data, exported.file, "--as", "copy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"copy: revision {FRAMES}, ")
    done = run_server("export", data, "copy", "-o", small, "--no-log")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" MB, without frames\n")
    frame_bytes = sum(len(make_frame(number).SerializeToString()) for number in range(1, FRAMES + 1))
    assert small.stat().st_size < exported.file.stat().st_size - 0.9 * frame_bytes
    assert import_scene(data, small, scene_id="small")[0] == "small"
    checked = run_server("check", data, "--all-revisions")
    assert checked.returncode == 0, checked.stdout
    assert re.findall(r"(\w+): intact, (\d+) revisions", checked.stdout) == [
        (scene, str(FRAMES)) for scene in ("copy", "small", "test")
    ]
    continued = set[bytes]()
    with ServerProcess(data) as server:
        for scene in ("scenes/test", "scenes/copy", "scenes/small"):
            assert meshes(server, scene) == exported.meshes
            tagged = mesh_bytes(get_mesh(server, scene, revision_tag="begin"))
            assert tagged == (1, exported.meshes[1])
            stream = Stream(server, scene)
            assert stream.opened().next_sequence_number == FRAMES + 1
            stream.finish()
            send_scan(server, FRAMES + 1, FRAMES + 2, scene)
            continued.add(mesh_bytes(get_mesh(server, scene))[1])
    assert len(continued) == 1
    assert exported.meshes[FRAMES] not in continued


def test_elsewhere_it_is_the_same_to_the_byte(exported: Exported, tmp_path: Path) -> None:
    """In a data directory that was not there; exported from it again it makes the same file."""
    data, again = tmp_path / "data", tmp_path / "again.sdgp"
    assert import_scene(data, exported.file)[0] == "test"
    export_scene(data, "test", again)
    assert again.read_bytes() == exported.file.read_bytes()


def test_the_same_scene_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = tmp_path / "again.sdgp"
    steps: list[tuple[int, int]] = []
    manifest = export_scene(
        exported.data, "test", again, on_progress=lambda done, total: steps.append((done, total))
    )
    assert again.read_bytes() == exported.file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.sdgp"]
    assert steps[-1] == (manifest.byte_count, manifest.byte_count)
    with zipfile.ZipFile(again) as archive:  # as people's own tools open it
        assert archive.testzip() is None
        listed = json.loads(archive.read("manifest.json"))
        assert listed["scene"] == "test"
        assert listed["has_frames"] is True
        assert {one["name"] for one in listed["members"]} | {"manifest.json"} == set(archive.namelist())


def test_without_frames_nothing_falls_back_to_them(exported: Exported, tmp_path: Path) -> None:
    export_scene(exported.data, "test", tmp_path / "small.sdgp", with_frames=False)
    import_scene(tmp_path / "data", tmp_path / "small.sdgp")
    with FrameLog(tmp_path / "data" / "scenes" / "test" / "log") as log:
        assert log.kept_from == log.end_position
        assert {record.kind for record in log.records()} == {RecordKind.EPOCH, RecordKind.DROPPED}


def test_frames_that_no_revision_includes_are_not_left_out(exported: Exported, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(exported.data, data)
    with FrameLog(data / "scenes" / "test" / "log") as log:
        log.append([LogRecord(RecordKind.FRAME, "robot", 2, FRAMES + 1, payload=b"frame")])
    with pytest.raises(InvalidInputError, match="got 1 frames that wait to be fitted"):
        export_scene(data, "test", tmp_path / "out.sdgp", with_frames=False)
    assert not list(tmp_path.glob("*.sdgp*"))
    assert export_scene(data, "test", tmp_path / "out.sdgp").has_frames


def test_a_damaged_scene_is_not_exported(exported: Exported, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(exported.data, data)
    newest = max((data / "scenes/test/atlas/icechunk/chunks").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.raises(StorageError, match=r"scene test intact; got .*revision"):
        export_scene(data, "test", tmp_path / "out.sdgp")
    assert not list(tmp_path.glob("*.sdgp*"))


def test_what_is_missing_or_in_the_way_is_named(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="a scene named other"):
        export_scene(exported.data, "other", tmp_path / "out.sdgp")
    with pytest.raises(NotFoundError, match="no file"):
        import_scene(tmp_path / "data", tmp_path / "nothing.sdgp")
    with pytest.raises(AlreadyExistsError, match=r"no scene named test.*--as"):
        import_scene(exported.data, exported.file)
    with pytest.raises(InvalidInputError, match="a scene name"):
        import_scene(exported.data, exported.file, scene_id="../up")
    with pytest.raises(StorageError, match="a new file"):
        export_scene(exported.data, "test", tmp_path / "no" / "out.sdgp")
    with DirectoryLock(tmp_path / "held"):
        done = run_server("import", tmp_path / "held", exported.file)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "a lock held by process" in done.stderr
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["LOCK"]


def unpacked(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def relisted(members: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    """With another manifest."""
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def renamed(members: Members, name: str) -> Members:
    """With ``scene.json`` under another name, in the list too."""

    def change(manifest: dict[str, Any]) -> None:
        for one in manifest["members"]:
            one["name"] = name if one["name"] == "scene.json" else one["name"]

    return {name if key == "scene.json" else key: value for key, value in relisted(members, change).items()}


def flipped(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


SPOILS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "newer": (
        lambda m: relisted(m, lambda manifest: manifest.update(version=7)),
        "an archive of version 1 or older in .*; got version 7",
    ),
    "foreign": (lambda m: relisted(m, lambda manifest: manifest.update(format="x")), "format 'x'"),
    "no manifest": (lambda m: {k: v for k, v in m.items() if k != "manifest.json"}, "without a manifest"),
    "no json": (lambda m: {**m, "manifest.json": b"\xff{"}, "a manifest that is none"),
    "nested": (lambda m: {**m, "manifest.json": b"[" * 100_000}, "a manifest that is none"),
    "unlisted": (lambda m: {**m, "log/more.seg": b"1"}, "'log/more.seg', which the manifest does not list"),
    "missing": (lambda m: {k: v for k, v in m.items() if k != "scene.json"}, "no member 'scene.json'"),
    "changed": (lambda m: {**m, "scene.json": flipped(m["scene.json"])}, "scene.json with another checksum"),
    "longer": (lambda m: {**m, "scene.json": m["scene.json"] + b" "}, "no member 'scene.json' as"),
    "upwards": (lambda m: renamed(m, "../scene.json"), "'../scene.json', which is no file of a scene"),
    "within": (lambda m: renamed(m, "log/../../x"), "'log/../../x', which is no file of a scene"),
    "absolute": (lambda m: renamed(m, "/tmp/x"), "'/tmp/x', which is no file of a scene"),
    "hidden": (lambda m: renamed(m, "log/.x"), "'log/.x', which is no file of a scene"),
    "bad name": (lambda m: relisted(m, lambda manifest: manifest.update(scene="../x")), "a scene name"),
    "broken scene": (lambda m: renamed(m, "log/x"), "a scene that is damaged: a readable test"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_other_files_are_refused_in_one_line_and_leave_nothing(
    exported: Exported, tmp_path: Path, kind: str
) -> None:
    spoil, message = SPOILS[kind]
    file, data = tmp_path / "file.sdgp", tmp_path / "data"
    pack(file, spoil(unpacked(exported.file)))
    with pytest.raises(StorageError, match=message):
        import_scene(data, file)
    assert not (data / "scenes").exists() or not list((data / "scenes").iterdir())
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "LOCK"] == [file]


def test_files_that_are_no_whole_zip_are_refused(exported: Exported, tmp_path: Path) -> None:
    whole, file = exported.file.read_bytes(), tmp_path / "file.sdgp"
    for content in (b"", b"PK", b"no zip at all" * 100, whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(content)
        done = run_server("import", tmp_path / "data", file)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: an exported scene in {file}; got ")
        assert done.stderr.count("\n") == 1
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(StorageError, match="an exported scene in"):
        import_scene(tmp_path / "data", file)
    assert not list((tmp_path / "data" / "scenes").iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "scene.json"])
def test_members_that_zipfile_cannot_read_are_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    file, members = tmp_path / "file.sdgp", unpacked(exported.file)
    pack(file, members)
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo(name).flag_bits |= 0x20
        archive._didModify = True
    with pytest.raises(StorageError, match="compressed patched data") as unknown:
        import_scene(tmp_path / "data", file)
    assert isinstance(unknown.value.__cause__, NotImplementedError)
    # A member that begins in the comment, with which the file ends.
    pack(file, members)
    whole = file.read_bytes()
    with zipfile.ZipFile(file, "a") as archive:
        info = archive.getinfo(name)
        archive.comment = whole[info.header_offset : info.header_offset + 30 + len(name) + 10]
        info.header_offset = len(whole)
        archive._didModify = True
    with pytest.raises(StorageError, match="an exported scene in") as short:
        import_scene(tmp_path / "data", file)
    assert isinstance(short.value.__cause__, EOFError)
    assert not list((tmp_path / "data" / "scenes").glob("*"))


def test_a_small_file_cannot_become_a_large_scene(exported: Exported, tmp_path: Path) -> None:
    file = tmp_path / "file.sdgp"
    members = unpacked(exported.file)
    pack(file, members, zipfile.ZIP_DEFLATED)
    with pytest.raises(StorageError, match="the compressed member"):
        import_scene(tmp_path / "data", file)
    # Many members that are the same bytes of the file.
    pack(file, {"manifest.json": b"{}", "log/a.seg": bytes(50_000)})
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.getinfo("log/a.seg")
        for number in range(20):
            twin = zipfile.ZipInfo(f"log/{number}.seg")
            twin.file_size = twin.compress_size = first.file_size
            twin.CRC, twin.header_offset = first.CRC, first.header_offset
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(StorageError, match=r"members of \d+ bytes in a file of \d+"):
        import_scene(tmp_path / "data", file)
    assert not (tmp_path / "data").exists()
