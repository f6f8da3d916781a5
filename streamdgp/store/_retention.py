"""Which revisions are too young to be cleared. Pure planning; no input or output."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from streamdgp.store._history import RevisionInfo

__all__ = ["oldest_within", "pause_before"]


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


def pause_before(info: RevisionInfo, previous: RevisionInfo) -> float:
    """Seconds between two commits; by the calendar, and at least 0, where no better clock was at hand."""
    if info.pause_s is not None:
        return info.pause_s
    return max(0.0, (info.created - previous.created).total_seconds())
