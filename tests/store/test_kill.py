"""A writer killed at random moments loses nothing it acknowledged, and the store opens again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamdgp.store import AtlasStore, FrameLog

_WRITE_LOG = """
import sys
from pathlib import Path
from streamdgp.store import FrameLog, LogRecord, RecordKind
log = FrameLog(Path(sys.argv[1]), segment_bytes=400_000)
n = log.end_position
while True:
    payload = bytes([n % 251]) * (1000 + n * 997 % 50_000)
    log.append([LogRecord(RecordKind.FRAME, "p", 1, n, str(n), n, payload)])
    n += 1
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""

_WRITE_ATLAS = """
import sys
from pathlib import Path
import numpy as np
from streamdgp.atlas.changes import AtlasChanges, TableChange
from streamdgp.store import AtlasStore
path = Path(sys.argv[1])
store = AtlasStore.open(path) if path.exists() else AtlasStore.create(path)
while True:
    n = store.latest_revision + 1
    table = TableChange({"value": np.full((2000, 50), n, np.float32)}, np.arange(2000))
    store.commit(AtlasChanges({"t": table}, {}, {"n": n}), {"next": n})
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""


def run_and_kill(program: str, directory: Path, lines: int) -> int:
    """Start the writer, kill it right after it acknowledged ``lines`` times; return the last number read."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        last = 0
        for _ in range(lines):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    return int(rest[-1]) if rest else last


@pytest.mark.parametrize("lines", [1, 40])
def test_killed_log_writer(tmp_path: Path, lines: int) -> None:
    for _ in range(2):
        acknowledged = run_and_kill(_WRITE_LOG, tmp_path, lines)
        with FrameLog(tmp_path) as log:
            assert log.end_position in (acknowledged, acknowledged + 1)
            for record in log.records():
                assert record.payload == bytes([record.sequence % 251]) * (
                    1000 + record.sequence * 997 % 50_000
                )


def test_killed_committer(tmp_path: Path) -> None:
    path = tmp_path / "atlas"
    for _ in range(2):
        acknowledged = run_and_kill(_WRITE_ATLAS, path, 5)
        store = AtlasStore.open(path)
        assert store.latest_revision in (acknowledged, acknowledged + 1)
        for info in store.revisions()[-3:]:
            stored = store.read(info.revision)
            assert stored.state.metadata == {"n": info.revision}
            assert np.array_equal(
                stored.state.tables["t"]["value"], np.full((2000, 50), info.revision, np.float32)
            )
        store.close()
