"""What a query returned once it returns again, byte for byte, for as long as its revision is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from streamdgp.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from streamdgp.v1 import scene_service_pb2
from streamdgp_client import Client
from tests.server.harness import (
    ServerProcess,
    Stream,
    create_coarse_scene,
    get_mesh,
    make_frame,
    mesh_bytes,
    send_scan,
)

SCENE = "scenes/test"
ARGUMENTS = ("--keep-revisions", "3", "--segment-size", "0.01")


def run_client(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from streamdgp_client.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "STREAMDGP_SERVER": server.address, "COLUMNS": "120"},
    )


def kept(server: ServerProcess) -> list[scene_service_pb2.Revision]:
    """Revisions that can be read, newest first."""
    return list(server.scenes.ListRevisions(scene_service_pb2.ListRevisionsRequest(scene=SCENE)).revisions)


def assert_as_seen(server: ServerProcess, seen: dict[int, bytes], at_least: int) -> None:
    """Every revision that is kept looks as it did when it was the newest."""
    asked = [revision.number for revision in kept(server) if revision.number in seen]
    assert len(asked) >= at_least
    for number in asked:
        assert mesh_bytes(get_mesh(server, SCENE, revision=number)) == (number, seen[number])


def test_a_revision_never_changes(tmp_path: Path) -> None:
    """While frames stream in, after clearing, and after a restart."""
    data, seen = tmp_path / "data", dict[int, bytes]()
    with ServerProcess(data, *ARGUMENTS) as server:
        create_coarse_scene(server)
        stream = Stream(server)
        for number in range(1, 11):
            stream.send_frames(make_frame(number))
            stream.wait_applied(number)
            revision, mesh = mesh_bytes(get_mesh(server))
            seen[revision] = mesh
            if number in (2, 7):
                request = scene_service_pb2.CreateTagRequest(
                    scene=SCENE, tag_id=f"after-{number}", revision=revision
                )
                header = server.scenes.CreateTag(request).header
                assert header.revision == revision
            if number % 5 == 0:
                assert_as_seen(server, seen, 3)
        stream.finish()
        assert len(set(seen.values())) == len(seen), "the surface did not change: nothing was tested"
        numbers = [revision.number for revision in kept(server)]
        assert len(numbers) < len(seen), "nothing was cleared"
        tags = {tag: revision.number for revision in kept(server) for tag in revision.tags}
        assert sorted(tags) == ["after-2", "after-7"]
        assert tags["after-2"] < max(numbers) - 4
        assert_as_seen(server, seen, 5)
    with ServerProcess(data, *ARGUMENTS) as server:
        assert_as_seen(server, seen, 5)
        for tag, number in tags.items():
            assert mesh_bytes(get_mesh(server, SCENE, revision_tag=tag)) == (number, seen[number])
        send_scan(server, 11, 14)
        assert_as_seen(server, {number: seen[number] for number in tags.values()}, 2)


@pytest.fixture(scope="module")
def tagged(server: ServerProcess) -> Iterator[Client]:
    """A scene named ``named`` with some revisions."""
    create_coarse_scene(server, "named")
    stream = Stream(server, "scenes/named")
    for number in range(1, 5):
        stream.send_frames(make_frame(number))
        stream.wait_applied(number)
    stream.finish()
    with Client(server.address) as client:
        yield client


def test_tags_in_the_client(tagged: Client) -> None:
    newest = tagged.get_scene("named").revision
    assert newest is not None
    assert tagged.create_tag("named", "now").number == newest
    assert tagged.create_tag("named", "first", 1).tags == ("first",)
    assert tagged.create_tag("named", "first", 1).number == 1
    with pytest.raises(AlreadyExistsError, match="no tag first; got one of revision 1"):
        tagged.create_tag("named", "first", 2)
    with pytest.raises(NotFoundError, match="a revision from 1 to"):
        tagged.create_tag("named", "later", newest + 1)
    with pytest.raises(InvalidInputError, match="a tag that is no number; got 12"):
        tagged.create_tag("named", "12")
    with pytest.raises(InvalidInputError, match="a tag of 1 to 63 letters"):
        tagged.create_tag("named", "../main")
    assert {name: info.number for name, info in tagged.list_tags("named").items()} == {
        "first": 1,
        "now": newest,
    }
    assert [info.tags for info in tagged.list_revisions("named")][-1] == ("first",)
    assert tagged.query_mesh("named", revision="first").revision == 1
    assert tagged.query_mesh("named", revision="now").revision == newest
    assert tagged.get_scene_statistics("named", "first").revision == 1
    with pytest.raises(NotFoundError, match=r"there are: first, now\).*got never"):
        tagged.query_mesh("named", revision="never")
    assert tagged.delete_tag("named", "first") == 1
    with pytest.raises(NotFoundError):
        tagged.delete_tag("named", "first")
    assert tagged.create_tag("named", "first", 2).number == 2
    tagged.delete_tag("named", "first")
    tagged.delete_tag("named", "now")


def test_refused_names_and_pages(server: ServerProcess, tagged: Client) -> None:
    with pytest.raises(InvalidInputError, match="revision or revision_tag; got both"):
        get_mesh(server, "scenes/named", revision=1, revision_tag="first")
    for name in ("scenes/named", "scenes/named/tags/", "named/tags/first"):
        with pytest.raises(grpc.RpcError) as caught:
            server.scenes.DeleteTag(scene_service_pb2.DeleteTagRequest(name=name))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for tag in ("b", "a", "c"):
        tagged.create_tag("named", tag, 1)
    request = scene_service_pb2.ListTagsRequest(scene="scenes/named", page_size=2)
    page = server.scenes.ListTags(request)
    assert [tag.name for tag in page.tags] == ["scenes/named/tags/a", "scenes/named/tags/b"]
    request.page_token = page.next_page_token
    page = server.scenes.ListTags(request)
    assert [tag.name for tag in page.tags] == ["scenes/named/tags/c"]
    assert page.next_page_token == ""
    server.scenes.CreateScene(scene_service_pb2.CreateSceneRequest(scene_id="bare"))
    with pytest.raises(NotFoundError, match="a committed revision; got none yet"):
        tagged.create_tag("bare", "early")
    for tag in "abc":
        tagged.delete_tag("named", tag)


def test_tags_on_the_command_line(server: ServerProcess, tagged: Client, tmp_path: Path) -> None:
    done = run_client(server, "scenes", "tag", "named", "begin", "--revision", "1")
    assert (done.returncode, done.stdout) == (0, "named: revision 1 is begin\n")
    listed = run_client(server, "scenes", "revisions", "named", "--limit", "2").stdout.splitlines()
    assert listed[0].split() == ["revision", "time", "(UTC)", "frames", "charts", "tags", "message"]
    assert len(listed) == 4  # the newest two, and the tagged one
    assert listed[-1].split()[0] == "1"
    assert listed[-1].split()[-3:] == ["begin", "revision", "1"]
    for given in ("begin", "1"):
        output = str(tmp_path / f"{given}.ply")
        done = run_client(server, "query-mesh", "--scene", "named", "-o", output, "--revision", given)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("revision 1\n")
    assert (tmp_path / "begin.ply").read_bytes() == (tmp_path / "1.ply").read_bytes()
    done = run_client(server, "query-mesh", "--scene", "named", "-o", output, "--revision", "0")
    assert done.returncode == 2
    assert "0 is no revision: they count from 1." in done.stderr
    done = run_client(server, "scenes", "untag", "named", "begin")
    assert (done.returncode, done.stdout) == (0, "named: revision 1 is not begin any more\n")
    done = run_client(server, "scenes", "untag", "named", "begin")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "got begin" in done.stderr
