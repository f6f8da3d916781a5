"""Where the long arrays of a scene live: on the heap, or in pages that a budget can put on disk; a cache."""

from streamdgp.memory._bounded import BoundedCache
from streamdgp.memory._budget import MemoryBudget
from streamdgp.memory._heap import ArrayMemory, HeapMemory
from streamdgp.memory._lists import ArrayList, Arrays
from streamdgp.memory._paged import PagedMemory

__all__ = [
    "ArrayList",
    "ArrayMemory",
    "Arrays",
    "BoundedCache",
    "HeapMemory",
    "MemoryBudget",
    "PagedMemory",
]
