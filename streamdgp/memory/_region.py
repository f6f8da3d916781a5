"""Address space of one growing array, whose cold parts can be put into a file and come back unasked.

An evicted chunk is written to a scratch file, and a private mapping of that place in the file takes the
chunk's place in memory, in one system call. Who reads it next gets a page fault, not an error: kernels
that know nothing of this read and write the same bits at the same addresses. What is written after that
is private memory again until the next eviction.

Linux only. ``mmap(2)``: MAP_FIXED replaces a mapping atomically; ``proc_pid_pagemap(5)``: bit 63, the page
is in memory; bit 62, it is swapped out; bit 61, it is the file's and not ours.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.errors import StorageError

__all__ = ["CHUNK_BYTES", "Region", "Scratch", "give_back_heap"]

CHUNK_BYTES = 128 * 1024
"""What is evicted and comes back at once."""
_PAGE_BYTES = mmap.PAGESIZE
_PAGES_PER_CHUNK = CHUNK_BYTES // _PAGE_BYTES
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_ENTRY_BYTES = 8
_CHUNKS_AT_ONCE = 2048


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


_LIBC = _libc()
_FAILED = ctypes.c_void_p(-1).value


def give_back_heap() -> None:
    """Give back to the system what the C heap holds and nobody uses, where the C library can."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


class Scratch:
    """A file without a name that evicted chunks go to; it is gone with the process, however that ends.

    Parameters
    ----------
    min_free_bytes
        With less than this free on the disk the file does not grow.

    Raises
    ------
    StorageError
        The directory takes no files, or the system does not tell which pages are in memory.
    """

    def __init__(self, directory: Path, min_free_bytes: int = 0) -> None:
        self._descriptor = self._pagemap = -1
        self._min_free_bytes = min_free_bytes
        self._reserved = self._length = 0
        try:
            self._descriptor = _nameless_file(directory)
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.__del__()
            raise StorageError(
                f"a scratch file in {directory}, and Linux's /proc/self/pagemap",
                f"{error.strerror}: {error.filename}",
                "Run without a memory budget, or where both are allowed.",
            ) from error

    def reserve(self, size: int) -> int:
        """A place of ``size`` bytes in the file; costs nothing until it is written."""
        place, self._reserved = self._reserved, self._reserved + size
        return place

    def write(self, data: Any, place: int) -> None:  # noqa: ANN401
        """Write at a place; raises OSError when the disk refuses."""
        left = memoryview(data).cast("B")
        if self._min_free_bytes and self._grows(place, len(left)):
            disk = os.fstatvfs(self._descriptor)
            if disk.f_bavail * disk.f_frsize < self._min_free_bytes + len(left):
                needed = f"less than {self._min_free_bytes / 1e6:.0f} MB would be left on the disk"
                raise OSError(errno.ENOSPC, needed)
        while left:
            written = os.pwrite(self._descriptor, left, place)
            left, place = left[written:], place + written

    def _grows(self, place: int, size: int) -> bool:
        """Whether writing at a place takes room; where a file system does not tell, it does not."""
        if place + size > self._length:
            return True
        return os.lseek(self._descriptor, place, os.SEEK_HOLE) < place + size

    def map_over(self, address: int, size: int, place: int) -> None:
        """Map the file's content at a place to an address; raises OSError, and then nothing has changed."""
        if place + size > self._length:
            # What lies behind the end of a file cannot be read; what was never written there is zero.
            os.ftruncate(self._descriptor, place + size)
            self._length = place + size
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        if _LIBC.mmap(address, size, _PROTECTION, flags, self._descriptor, place) != address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def pages(self, address: int, size: int) -> npt.NDArray[np.uint64]:
        """The page map's entries of a range of addresses."""
        data = os.pread(
            self._pagemap, size // _PAGE_BYTES * _ENTRY_BYTES, address // _PAGE_BYTES * _ENTRY_BYTES
        )
        return np.frombuffer(data, np.uint64)

    def __del__(self) -> None:
        for descriptor in (self._descriptor, self._pagemap):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._pagemap = -1


def _nameless_file(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        # Not every file system has files without names.
        descriptor, name = tempfile.mkstemp(prefix=".scratch-", dir=directory)
        Path(name).unlink()
        return descriptor


class Region:
    """``reserve_bytes`` of zeros, of which an array may use as many as it grows to.

    ``stamp`` (chunks,) is for the owner: when a chunk was last used.

    Raises
    ------
    StorageError
        The system gives no such range of addresses.
    """

    def __init__(self, scratch: Scratch, dtype: np.dtype[Any], row_shape: tuple[int, ...], rows: int) -> None:
        self.dtype, self.row_shape = dtype, row_shape
        self.row_bytes = dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        self.max_rows = rows
        self._scratch = scratch
        self._size = -(-rows * self.row_bytes // CHUNK_BYTES) * CHUNK_BYTES
        self._place = scratch.reserve(self._size)
        self.stamp = np.zeros(0, np.int64)
        self._is_evicted = np.zeros(0, np.bool_)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        address = _LIBC.mmap(None, self._size, _PROTECTION, flags, -1, 0)
        if address in (None, _FAILED):
            raise StorageError(
                f"{self._size / 2**30:.0f} GiB of address space",
                os.strerror(ctypes.get_errno()),
                "Lift the limit on virtual memory (ulimit -v, vm.overcommit_memory=2), or run without a "
                "memory budget.",
            )
        self.address: int = address

    def array(self, rows: int) -> npt.NDArray[Any]:
        """The first rows, as an array that keeps the region alive."""
        if rows > self.max_rows:
            raise StorageError(
                f"at most {self.max_rows:,} rows under a memory budget", f"{rows:,}", "Split the scene."
            )
        chunks = -(-rows * self.row_bytes // CHUNK_BYTES)
        if chunks > len(self.stamp):
            added = chunks - len(self.stamp)
            self._is_evicted = np.concatenate([self._is_evicted, np.zeros(added, np.bool_)])
            self.stamp = np.concatenate([self.stamp, np.zeros(added, np.int64)])
        return np.asarray(_Window(self, rows))

    def touch(self, rows: npt.NDArray[np.int64], tick: int) -> None:
        """Note that rows are being used; a row is smaller than a chunk."""
        self.stamp[rows * self.row_bytes // CHUNK_BYTES] = tick
        self.stamp[((rows + 1) * self.row_bytes - 1) // CHUNK_BYTES] = tick

    def resident_bytes(self, tick: int) -> npt.NDArray[np.int64]:
        """What of each chunk is in memory. An evicted one that has come back gets the stamp ``tick``."""
        # The owner may let the array grow meanwhile: what it adds is looked at next time.
        stamp, is_evicted = self.stamp, self._is_evicted
        resident = np.empty(len(stamp), np.int64)
        for begin in range(0, len(resident), _CHUNKS_AT_ONCE):
            part = resident[begin : begin + _CHUNKS_AT_ONCE]
            pages = self._scratch.pages(self.address + CHUNK_BYTES * begin, CHUNK_BYTES * len(part))
            part[:] = (pages >> np.uint64(63)).reshape(-1, _PAGES_PER_CHUNK).sum(1)
        resident *= _PAGE_BYTES
        returned = np.flatnonzero(is_evicted[: len(stamp)] & (resident > 0))
        stamp[returned] = tick
        is_evicted[returned] = False
        return resident

    def evict(self, chunks: npt.NDArray[np.int64]) -> None:
        """Put chunks (ascending) into the file. Nobody may write to them meanwhile; reading is safe.

        Raises
        ------
        OSError
            The disk or the system refused; chunks that were not evicted are as before.
        """
        for run in np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1):
            begin, size = int(run[0]) * CHUNK_BYTES, len(run) * CHUNK_BYTES
            entries = self._scratch.pages(self.address + begin, size)
            is_held = (entries >> np.uint64(62)) != 0
            is_own = is_held & ((entries >> np.uint64(61)) & np.uint64(1) == 0)
            edges = np.flatnonzero(np.diff(is_own, prepend=False, append=False))
            for first, last in edges.reshape(-1, 2) * _PAGE_BYTES:
                start = begin + int(first)
                data = (ctypes.c_char * int(last - first)).from_address(self.address + start)
                self._scratch.write(data, self._place + start)
            self._scratch.map_over(self.address + begin, size, self._place + begin)
            self._is_evicted[run] = True

    def __del__(self) -> None:
        if getattr(self, "address", None):
            _LIBC.munmap(self.address, self._size)


class _Window:
    """What numpy asks for an array's memory; the array holds it, and it the region."""

    def __init__(self, region: Region, rows: int) -> None:
        self._region = region
        self.__array_interface__ = {
            "data": (region.address, False),
            "shape": (rows, *region.row_shape),
            "typestr": region.dtype.str,
            "version": 3,
        }
