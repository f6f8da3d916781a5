"""What is kept on disk: the atlas (zarr on Icechunk) and the log of frames.

The store knows nothing of fitting; it takes tables, arrays and metadata
(:class:`streamdgp.atlas.changes.AtlasChanges`) and gives back the same bits. The schema is
described in ``docs/storage.md``.
"""

from streamdgp.store._durable import DirectoryLock
from streamdgp.store._facts import TextColumn
from streamdgp.store._migration import migrate, migrate_settings
from streamdgp.store._reading import StoredRevision, UnknownSchemaError
from streamdgp.store._records import LogRecord, RecordKind
from streamdgp.store._retention import count_by_size
from streamdgp.store.atlas_store import AtlasStore, RevisionInfo, StagedCommit
from streamdgp.store.frame_log import FrameLog

__all__ = [
    "AtlasStore",
    "DirectoryLock",
    "FrameLog",
    "LogRecord",
    "RecordKind",
    "RevisionInfo",
    "StagedCommit",
    "StoredRevision",
    "TextColumn",
    "UnknownSchemaError",
    "count_by_size",
    "migrate",
    "migrate_settings",
]
