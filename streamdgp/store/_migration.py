"""States of earlier versions, made what this one would have kept; one step from each schema to the next.

Schema 2 to 3: surfels in steps instead of floats, chart weights in half precision, normals instead of
rotations. What is kept is rounded to the nearest step (the engine dithers, so that running means do not stand
still; here nothing runs). 99 % of the surface moves by less than a three-hundredth of a voxel.

Lost are the last few viewpoints of every surfel, which schema 2 kept as hashes and schema 3 as numbers: a
camera that has stood still since adds a few observations more than it should. Settings that schema 2 did not
have are as if they were off.

Schema 3 to 4: a chart has a level (``streamdgp.levels``), of old all the same.

Schema 4 to 5: charts have turns (``streamdgp.turns``), of old in every frame, and no surfels wait for one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.changes import AtlasState
from streamdgp.errors import StorageError

__all__ = ["migrate", "migrate_settings"]

_Columns = dict[str, npt.NDArray[Any]]
_CHART_NORMAL_STEPS = 32767
_MASS_BITS = 8
_LARGEST_HALF = 65504.0
_OFFSET_LIMIT = 32767
_COUNT_LIMIT = 65535
_SCHEMA_2 = {
    "charts": {
        *("anchor", "rotation", "parameters", "support", "hits", "passes", "fit_mass", "fresh_mass"),
        *("residual", "ridge", "backed_at_cold", "version", "created", "fits"),
    },
    "surfels": {
        *("key", "weight", "offset_vox", "normal", "color", "count", "first_frame", "last_frame"),
        *("view_id", "view_mass", "streak"),
    },
    "blocks": {"passes"},
}


def migrate(state: AtlasState) -> AtlasState:
    """The state in the newest schema that is known here; the same object where nothing is to be done.

    A schema without a step of its own is left for the engine to take or refuse.

    Raises
    ------
    StorageError
        It is not what its schema says.
    """
    while (step := _STEPS.get(state.metadata.get("schema"))) is not None:
        state = step(state)
    return state


def migrate_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a scene of any earlier version, by the names of today; others are left as they are."""
    evidence = config.get("evidence")
    if not isinstance(evidence, dict) or "view_mass_cap" not in evidence:
        return config
    evidence = dict(evidence)
    most = int(np.clip(np.rint(evidence.pop("view_mass_cap")), 1, 255))
    return config | {"evidence": {"most_per_view": most} | evidence}


def _from_2(state: AtlasState) -> AtlasState:
    metadata = copy.deepcopy(state.metadata)
    metadata["schema"] = 3
    metadata["config"] = config = migrate_settings(metadata["config"])
    config["evidence"] = {"pose_error_vox": 0.0} | config["evidence"]
    if not state.tables:
        return AtlasState({}, dict(state.arrays), metadata)
    for table, columns in _SCHEMA_2.items():
        found = set(state.tables.get(table, {}))
        if found != columns:
            raise StorageError(
                f"table {table} of schema 2 with the columns {', '.join(sorted(columns))}",
                ", ".join(sorted(found)) or "no such table",
                "Send the frames again into a new scene.",
            )
    tables = {
        "charts": _charts_from_2(state.tables["charts"]),
        "surfels": _surfels_from_2(state.tables["surfels"]),
        "blocks": dict(state.tables["blocks"]),
        "views": {"cell": np.zeros((0, 3), np.int32)},
    }
    return AtlasState(tables, dict(state.arrays), metadata)


def _charts_from_2(old: _Columns) -> _Columns:
    # Compiled code comes along, which takes longer to load than most atlases: only where it is needed.
    from streamdgp.evidence.precision import rounded

    new = {name: values for name, values in old.items() if name != "rotation"}
    normal = old["rotation"][:, :, 2]
    new["normal"] = np.rint(_CHART_NORMAL_STEPS * normal).astype(np.int16)
    new["parameters"] = np.clip(old["parameters"], -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    for name in ("fit_mass", "fresh_mass"):
        new[name] = rounded(old[name].astype(np.float32), _MASS_BITS)
    return new


def _surfels_from_2(old: _Columns) -> _Columns:
    from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX, WEIGHT_BITS, rounded

    same = ("key", "first_frame", "last_frame", "streak")
    offset = np.rint(old["offset_vox"] / OFFSET_STEP_VOX)
    return {name: old[name] for name in same} | {
        "weight": rounded(old["weight"].astype(np.float32), WEIGHT_BITS),
        "offset": np.clip(offset, -_OFFSET_LIMIT, _OFFSET_LIMIT).astype(np.int16),
        "normal": np.clip(np.rint(old["normal"] / NORMAL_STEP), -127, 127).astype(np.int8),
        "color": np.clip(np.rint(old["color"]), 0, 255).astype(np.uint8),
        "count": np.clip(old["count"], 0, _COUNT_LIMIT).astype(np.uint16),
        "view_id": np.zeros((len(old["key"]), 4), np.uint16),
        "view_seen": np.zeros((len(old["key"]), 4), np.uint8),
    }


def _from_3(state: AtlasState) -> AtlasState:
    metadata = copy.deepcopy(state.metadata)
    metadata["schema"] = 4
    metadata["config"] = {"largest_radius_ratio": 1.0} | metadata["config"]
    if not state.tables:
        return AtlasState({}, dict(state.arrays), metadata)
    charts = state.tables["charts"]
    level = np.zeros(len(charts["anchor"]), np.uint8)
    return AtlasState({**state.tables, "charts": {**charts, "level": level}}, dict(state.arrays), metadata)


def _from_4(state: AtlasState) -> AtlasState:
    metadata = copy.deepcopy(state.metadata)
    metadata["schema"] = 5
    config = metadata["config"]
    config["fit"] = {"most_waiting": 1} | config.get("fit", {})
    if not state.tables:
        return AtlasState({}, dict(state.arrays), metadata)
    metadata["turns"] = {"frames": 0, "pose": None}
    waiting = {"waiting_surfels": np.zeros(0, np.int32), "waiting_gained": np.zeros(0, np.float32)}
    return AtlasState(dict(state.tables), {**state.arrays, **waiting}, metadata)


_STEPS: dict[Any, Callable[[AtlasState], AtlasState]] = {2: _from_2, 3: _from_3, 4: _from_4}
