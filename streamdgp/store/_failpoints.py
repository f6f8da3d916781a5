"""Places where a test may kill the process: what is on disk then must be enough to go on."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["FAILPOINTS", "VARIABLE", "reach"]

VARIABLE = "STREAMDGP_FAILPOINT"
"""Environment variable: ``name`` or ``name:n``, the n-th time that this place is reached."""
FAILPOINTS = (
    "log.write",
    "log.sync",
    "log.synced",
    "log.segment-rename",
    "log.segment-renamed",
    "log.drop-rename",
    "log.drop-renamed",
    "ack",
    "commit.write",
    "commit.sync",
    "commit.synced",
    "clear.expire",
    "clear.collect",
    "clear.sync",
)
"""Named for what comes next, or (past tense) for what has just been done."""

_NAME, _, _COUNT = os.environ.get(VARIABLE, "").partition(":")
_guard = threading.Lock()
_left = int(_COUNT or 1)


def reach(name: str) -> None:
    """Die here, as by ``kill -9``, if the environment says so."""
    global _left
    if name != _NAME:
        return
    with _guard:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
