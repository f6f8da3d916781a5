"""What a server can be told; every default lives here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from streamdgp_server.fit_worker import CommitPolicy

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """Settings of a server process."""

    data: Path
    """Directory that holds the scenes; made if missing."""
    device: str = "cpu"
    """Where charts are fitted: ``cpu``, ``cuda``, ``cuda:0``."""
    max_cells: int = 100_000_000
    """A mesh query that would visit more lattice cells is refused."""
    tile_cache_bytes: int = 256 * 1024 * 1024
    """Extracted tiles kept in memory, per scene."""
    memory_budget_bytes: int = 0
    """What the maps and tiles of all scenes may take in memory; the rest waits on disk. 0: no limit."""
    max_pending_bytes: int = 64 * 1024 * 1024
    """Frames received and not yet durable, per scene; beyond it the server stops reading."""
    max_credit: int = 256
    """Frames a producer may send ahead of the durable ones."""
    segment_bytes: int = 128 * 1024 * 1024
    """Size of a segment of a log: frames are dropped by segments."""
    min_free_bytes: int = 500_000_000
    """With less than this free on the disk no frames are taken. 0: not watched."""
    keepalive_s: float = 20.0
    """A silent connection is asked for a sign of life after so long, and closed after twice that again."""
    patience_s: float = 300.0
    """A stream whose client leaves a frame half sent, or answers unread, for so long is ended."""
    max_part_bytes: int = 256 * 1024 * 1024
    """Memory for frames that are half sent, of all streams; beyond it they wait, but for one."""
    keep_revisions_for_s: float = 0.0
    """Revisions that were the newest one within so many seconds stay readable, however many there are."""
    commit: CommitPolicy = field(default_factory=CommitPolicy)
    """When fitted frames become a revision."""

    @property
    def tile_cache_share(self) -> int:
        """Bytes of tiles that a scene keeps: under a budget at most an eighth of it."""
        if not self.memory_budget_bytes:
            return self.tile_cache_bytes
        return min(self.tile_cache_bytes, self.memory_budget_bytes // 8)

    @property
    def map_budget_bytes(self) -> int:
        """What of the memory budget is for maps."""
        return self.memory_budget_bytes - self.memory_budget_bytes // 8
