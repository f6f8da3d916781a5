"""How much memory a process took at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_mb"]


def peak_mb() -> float:
    """Most memory that this process ever held, MB of 10^6 bytes.

    Linux hands ``ru_maxrss`` on through fork and exec: a child of a large parent starts with the
    parent's. VmHWM belongs to the program alone, so it is taken where there is one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    scale = 1.0 if sys.platform == "darwin" else 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
