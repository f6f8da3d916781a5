"""The atlas: charts, frames, support, statistics, and what a commit carries."""

from streamdgp.atlas.changes import AtlasChanges, AtlasState, TableChange

__all__ = ["AtlasChanges", "AtlasState", "TableChange"]
