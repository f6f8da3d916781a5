"""What a revision must hold: digests of its arrays in its attributes, a digest of those in its commit.

The checksum of a chunk says that its bytes are as they were written, not that they belong where they are
found: exchanged chunks, an older manifest or a lost one (whose chunks read as zeros) pass it. So every commit
notes shape and digest of every array, and what is read is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ArrayDigests",
    "DigestError",
    "Digests",
    "array_entry",
    "column_pages",
    "digest_of",
    "is_sealed",
    "page_digest",
    "require_array",
    "require_attributes",
    "require_shape",
    "seal_commit",
]

Digests = dict[tuple[str, str, int], bytes]
"""(table, column, page): SHA-256 of what a revision holds there."""
ArrayDigests = dict[str, dict[str, Any]]
"""By path of the array, for example ``tables/charts/anchor``: its ``shape`` and ``sha256``."""
_ATTRIBUTES, _SEAL = "attributes_sha256", "sha256"
_UNSEALED = 1
"""The schema version that had no digests."""


class DigestError(ValueError):
    """What was read is not what was committed. Internal to the store."""


def page_digest(values: npt.NDArray[Any]) -> bytes:
    """SHA-256 of a page: its bytes, its shape and its dtype."""
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    digest.update(f"{values.shape} {values.dtype.str}".encode())
    return digest.digest()


def column_pages(
    table: str, column: str, values: npt.NDArray[Any], rows_per_page: int, first_page: int = 0
) -> Digests:
    """The digests of the pages of a column, or of a part of it from ``first_page`` on, that was read."""
    starts = range(0, len(values), rows_per_page)
    return {
        (table, column, page): page_digest(values[start : start + rows_per_page])
        for page, start in enumerate(starts, first_page)
    }


def array_entry(shape: Iterable[int], pages: Iterable[bytes]) -> dict[str, Any]:
    """What the attributes say of an array, from the digests of its pages in order."""
    return {"shape": [int(n) for n in shape], "sha256": hashlib.sha256(b"".join(pages)).hexdigest()[:32]}


def require_shape(entries: ArrayDigests | None, path: str, shape: tuple[int, ...]) -> None:
    """Raise :class:`DigestError` before an array is read that is not as large as it was."""
    if entries is None:
        return
    if path not in entries:
        raise DigestError("an array that was not committed")
    if tuple(entries[path]["shape"]) != shape:
        raise DigestError(f"shape {shape}, committed was {tuple(entries[path]['shape'])}")


def require_array(
    entries: ArrayDigests | None, path: str, shape: tuple[int, ...], pages: Iterable[bytes]
) -> None:
    """Raise :class:`DigestError` unless an array is the one that was committed."""
    if entries is not None and entries[path] != array_entry(shape, pages):
        raise DigestError("other values than were committed (intact chunks in wrong places, or none)")


def require_attributes(attributes: Mapping[str, Any], sealed: str) -> ArrayDigests | None:
    """The digests in a revision's attributes, verified; None for one that was written before there were any.

    ``sealed`` is what the commit says of the attributes.

    Raises
    ------
    DigestError
        The attributes are not those that were committed.
    """
    if not sealed and attributes.get("schema_version") == _UNSEALED:
        return None
    if sealed != digest_of(attributes):
        raise DigestError("other attributes than were committed")
    digests: ArrayDigests = attributes["digests"]
    return digests


def seal_commit(totals: Mapping[str, Any], attributes: Mapping[str, Any], message: str) -> dict[str, Any]:
    """A commit's metadata: its totals, the digest of its attributes, and the digest of all that."""
    facts = {**totals, _ATTRIBUTES: digest_of(attributes)}
    return {**facts, _SEAL: digest_of({**facts, "message": message})}


def is_sealed(metadata: Mapping[str, Any], message: str) -> bool:
    """Whether a commit's metadata and message are as they were written; true where there are no digests."""
    facts = {key: value for key, value in metadata.items() if key != _SEAL}
    if _SEAL not in metadata:
        return _ATTRIBUTES not in metadata
    return bool(metadata[_SEAL] == digest_of({**facts, "message": message}))


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of something JSON-able, cut to 32 digits."""
    # Once through JSON: as it will be read.
    plain = json.loads(json.dumps(dict(content)))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
