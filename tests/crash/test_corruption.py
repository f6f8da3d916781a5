"""Every class of bytes on disk is damaged in every way: an error names the place, or nothing changes.

One data directory comes from a real server. Each damage is laid on a copy, which is then checked (as by
``streamdgp-server check --all-revisions``) and opened by the scene engine with its fit worker; a sample is
given to real processes. What ``check`` calls intact is read whole and must be what was written.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from streamdgp.errors import StreamdgpError
from streamdgp.store import AtlasStore
from streamdgp.store._clearing import keep_snapshots
from streamdgp_server.check import check_data
from streamdgp_server.scene_engine import open_scene
from tests.crash.corruption import Damage, copy_of, every_damage, kind_of, lay_on
from tests.crash.running import Running, fingerprint, state_fingerprint
from tests.server.harness import ServerProcess, Stream, get_mesh, make_frame, mesh_bytes
from tests.server.test_restart import run_server

_ARGUMENTS = ("--segment-size", "0.004", "--keep-revisions", "2")
_SEGMENT_BYTES = 4000
_FRAMES = 8
_REFUSED = 3
_IS_LONG = int(os.environ.get("STREAMDGP_CRASH_ROUNDS", "3")) >= 50
_MOST_MEMORY_BYTES = 3 << 30
"""Of the process that runs the tests; a length that was damaged and believed would ask for more."""
# Bytes that nothing reads, or that are made again from others; docs/storage.md names them.
_UNREAD = {"LOCK", "transaction", "SYNCED", "kept snapshot"}
_KINDS = {"scene.json": 2, "segment": 6, "DURABLE": 2, "SYNCED": 1, "kept snapshot": 1, "ref": 2}
_KINDS |= {"snapshot": 3, "manifest": 4, "transaction": 1, "chunk": 3, "LOCK": 3}
"""How many damages ``make test`` tries; ``make crash`` a hundred times as many, which is all or nearly."""

S, T = TypeVar("S"), TypeVar("T")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with all that there can be: dropped frames, a rejection, cleared revisions, copies."""
    data = tmp_path_factory.mktemp("intact") / "data"
    with ServerProcess(data, *_ARGUMENTS) as server:
        stream = Stream(server)
        for number in range(1, _FRAMES + 1):
            frame = make_frame(number)
            if number == _REFUSED:
                frame.depth_image.intrinsics.fx = 0
            stream.send_frames(frame)
            if number % 2 == 0:
                stream.wait_applied(number)
        stream.finish()
    atlas = data / "scenes" / "test" / "atlas"
    keep_snapshots(atlas, atlas / "icechunk" / "snapshots")
    kinds = {kind_of(str(path.relative_to(data))) for path in data.rglob("*") if path.is_file()}
    assert kinds == set(_KINDS), kinds
    return data


def applied(data: Path) -> tuple[object, ...]:
    """What a start comes to: all state, the log's end, and what each producer's numbers are."""
    running = Running(open_scene(data / "scenes" / "test", "cpu", _SEGMENT_BYTES))
    scene, end = running.scene, running.scene.log.end_position
    try:
        running.wait_applied(end)
    finally:
        running.close()
    ledgers = {
        name: (ledger.epoch, ledger.next_sequence, [astuple(entry) for entry in ledger.entries])
        for name, ledger in scene.ledgers.items()
    }
    return fingerprint(scene.reconstructor), end, ledgers


def revisions(data: Path) -> list[object]:
    """All that can be asked about every revision."""
    store = AtlasStore.open(data / "scenes" / "test" / "atlas", read_only=True)
    with closing(store):
        found = [(info, store.read(info.revision)) for info in store.revisions()]
    return [(info, state_fingerprint(one.state), one.log_position, one.created) for info, one in found]


@pytest.fixture(scope="module")
def outcome_of_intact(intact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, list[object]]:
    copy = copy_of(intact, tmp_path_factory.mktemp("copy") / "data")
    return applied(copy), revisions(copy)


def fault_of(data: Path) -> str:
    return "".join(found.fault for found in check_data(data, all_revisions=True))


def attempt(function: Callable[[S], T], argument: S) -> tuple[T | None, str]:
    """What a function returns, or the message of this project's error."""
    try:
        return function(argument), ""
    except StreamdgpError as error:
        return None, str(error)


def require_clear(fault: str) -> None:
    """One line that names what is damaged and where."""
    assert "\n" not in fault.strip(), fault
    assert "Traceback" not in fault
    assert "/scenes/test/" in fault, fault


def chosen(intact: Path, kind: str, most: int) -> list[Damage]:
    """Damages of a kind, at most so many: of every part and every way, files exchanged first."""
    damages = [one for one in every_damage(intact, 1) if one.kind == kind]
    order = np.random.default_rng(1).permutation(len(damages))
    by_class: dict[tuple[str, str], list[Damage]] = {}
    for k in order:
        by_class.setdefault((damages[k].part, damages[k].way), []).append(damages[k])
    by_class = dict(sorted(by_class.items(), key=lambda one: one[0][1] != "exchange"))
    rounds = itertools.zip_longest(*by_class.values())
    return [one for one in itertools.chain.from_iterable(rounds) if one is not None][:most]


@pytest.mark.timeout(7200 if _IS_LONG else 300)
@pytest.mark.parametrize("kind", _KINDS)
def test_damage_is_named_or_harmless(
    intact: Path,
    outcome_of_intact: tuple[object, list[object]],
    tmp_path: Path,
    kind: str,
    crash_report: Callable[..., None],
) -> None:
    counts = {"cases": 0, "named": 0, "harmless": 0}
    wanted, wanted_revisions = outcome_of_intact
    for damage in chosen(intact, kind, _KINDS[kind] * (100 if _IS_LONG else 1)):
        checked = copy_of(intact, tmp_path / "checked")
        if not lay_on(checked, damage):
            continue
        fault = fault_of(checked)
        if fault:
            require_clear(fault)
        else:
            assert revisions(checked) == wanted_revisions, f"check missed: {damage}"
        started = copy_of(intact, tmp_path / "started")
        lay_on(started, damage)
        outcome, error = attempt(applied, started)
        if error:
            require_clear(error)
            assert fault, f"a start fails and check does not: {damage}: {error}"
        else:
            assert outcome == wanted, f"another surface: {damage}"
        assert not (fault and kind in _UNREAD), f"documented as unread: {damage}: {fault}"
        counts["cases"] += 1
        counts["named" if fault or error else "harmless"] += 1
    crash_report(f"corruption of {kind}", **counts)
    assert counts["cases"] > 0
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak_bytes < _MOST_MEMORY_BYTES, "a damaged length was believed"


@pytest.mark.parametrize("kind", _KINDS if _IS_LONG else ("chunk",))
def test_the_real_server_and_check_say_so(
    intact: Path, tmp_path: Path, kind: str, crash_report: Callable[..., None]
) -> None:
    """The same with the processes that users start: exit codes, one line, no traceback, no other mesh."""
    with ServerProcess(copy_of(intact, tmp_path / "intact"), *_ARGUMENTS) as server:
        wanted = mesh_bytes(get_mesh(server))[1]  # a revision made again may have another number
    damages = [one for one in chosen(intact, kind, 20) if one.way in ("exchange", "flip", "truncate")]
    damages = (damages or chosen(intact, kind, 20))[:: max(1, len(damages) // 3)]
    for number, damage in enumerate(damages if _IS_LONG else damages[:1]):
        checked = copy_of(intact, tmp_path / f"checked-{number}")
        started = copy_of(intact, tmp_path / f"started-{number}")
        lay_on(checked, damage)
        lay_on(started, damage)
        done = run_server("check", str(checked), "--all-revisions")
        assert "Traceback" not in done.stderr, damage
        if done.returncode:
            assert re.fullmatch(r"test: .*/scenes/test/.*\n", done.stdout), (damage, done.stdout)
            assert done.stderr == "Error: 1 damaged scenes\n"
        with ServerProcess(started, *_ARGUMENTS) as server:
            _, error = attempt(get_mesh, server)
            stream = Stream(server)
            if error:
                assert done.returncode == 1, f"a start fails and check does not: {damage}: {error}"
                assert "/scenes/test/" in error, error
                assert "/scenes/test/" in str(stream.wait_ended())
            else:
                assert stream.opened().next_sequence_number == _FRAMES + 1
                stream.wait_applied(_FRAMES)
                stream.finish()
                assert mesh_bytes(get_mesh(server))[1] == wanted, damage
            assert "Traceback" not in server.stderr()
        crash_report(f"real server, damaged {kind}", cases=1, **{"named" if error else "harmless": 1})
