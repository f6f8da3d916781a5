"""What a commit carries from the numeric core to the store: tables of rows, whole arrays, metadata.

The core says *what* changed; the store decides how to page it. A table is a set of columns that
share their row count; a row keeps its number for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AtlasChanges", "AtlasState", "TableChange"]


@dataclass(frozen=True)
class TableChange:
    """The current columns of one table and the rows that changed since the last commit.

    ``columns[name]`` has shape (row_count, ...); ``changed_rows`` is sorted int64, includes new rows.
    """

    columns: dict[str, npt.NDArray[Any]]
    changed_rows: npt.NDArray[np.int64]

    @property
    def row_count(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class AtlasChanges:
    """One commit: changed tables, small arrays to replace whole, and JSON-able metadata (whole)."""

    tables: dict[str, TableChange]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AtlasState:
    """Everything a revision holds, as read back: the exact bits that were committed."""

    tables: dict[str, dict[str, npt.NDArray[Any]]]
    arrays: dict[str, npt.NDArray[Any]]
    metadata: dict[str, Any]
