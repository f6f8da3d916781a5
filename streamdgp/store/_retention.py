"""Which revisions are too young to be cleared, and how many there is room for. Nothing is read or written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from streamdgp.store._history import RevisionInfo

__all__ = ["count_by_size", "oldest_within", "pause_before"]

_LEAST, _MOST = 20, 100
_LEAST_HISTORY_BYTES = 256 << 20


def oldest_within(revisions: Sequence[RevisionInfo], keep_for_s: float, since_newest_s: float) -> int:
    """Number of the oldest revision that was the newest one within the last ``keep_for_s`` seconds.

    Ages are sums of the pauses between commits, so that setting the clock makes nothing older or younger.

    Parameters
    ----------
    revisions
        Without a gap, oldest first, at least one.
    since_newest_s
        Age of the last of them.
    """
    age_s = since_newest_s
    for before, after in itertools.pairwise(reversed(revisions)):
        # Until its successor came, a revision was what people saw.
        if age_s > keep_for_s:
            return before.revision
        age_s += pause_before(before, after)
    return revisions[0].revision


def count_by_size(revisions: Sequence[RevisionInfo]) -> int:
    """How many of the newest revisions to keep: a store is to follow the area seen, not the time spent there.

    100, or fewer, but at least 20, where the older ones would hold more beside the newest than it holds
    itself; up to 256 MiB they may.

    Parameters
    ----------
    revisions
        Oldest first, at least one.
    """
    room = max(_LEAST_HISTORY_BYTES, revisions[-1].column_bytes)
    count = 1
    for newer in reversed(revisions[1:]):
        # What a commit wrote anew, the revision before holds as it was.
        room -= newer.written_bytes
        if room < 0:
            break
        count += 1
    return min(_MOST, max(_LEAST, count))


def pause_before(info: RevisionInfo, previous: RevisionInfo) -> float:
    """Seconds between two commits; by the calendar, and at least 0, where no better clock was at hand."""
    if info.pause_s is not None:
        return info.pause_s
    return max(0.0, (info.created - previous.created).total_seconds())
