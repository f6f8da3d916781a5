"""Opening what an earlier version wrote: the newest revision is committed anew, in today's schema."""

from __future__ import annotations

import logging

import numpy as np

from streamdgp.atlas.changes import AtlasChanges, AtlasState, TableChange
from streamdgp.store import AtlasStore, StoredRevision, migrate

__all__ = ["migrate_newest"]

_LOGGER = logging.getLogger(__name__)


def migrate_newest(store: AtlasStore, stored: StoredRevision) -> AtlasState:
    """The state of the newest revision in today's schema; committed where that is another one.

    The revision of the earlier version stays, and is migrated whenever it is read.

    Raises
    ------
    StorageError
        It cannot be migrated, or the disk refused.
    """
    state = migrate(stored.state)
    if state is stored.state:
        return state
    before, after = stored.state.metadata["schema"], state.metadata["schema"]
    tables = {
        name: TableChange(columns, np.arange(len(next(iter(columns.values())))))
        for name, columns in state.tables.items()
    }
    info = store.revisions()[-1]
    revision = store.commit(
        AtlasChanges(tables, state.arrays, state.metadata),
        stored.log_position,
        f"schema {before} to {after}",
        frames=info.frames,
        charts=info.charts,
    )
    _LOGGER.warning("%s: revision %d is revision %d in schema %d", store.path, revision, info.revision, after)
    return state
