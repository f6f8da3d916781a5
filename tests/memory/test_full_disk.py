"""A disk that refuses what is evicted: nothing is lost, the log says so once, and memory grows instead."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.memory import MemoryBudget, PagedMemory

_MB = 1 << 20
_BUDGET_BYTES = 16 * _MB
_REFUSED = "memory cannot be put on disk"

# The kernel refuses to write beyond a file's greatest size as on a full disk: in the midst of a write.
_LIMITED = """
import logging, resource, sys
from pathlib import Path
import numpy as np
from streamdgp.memory import MemoryBudget

def refuse_beyond(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def filled(name, mebibytes):
    array = memory.grown(name, np.zeros(0, np.int64), mebibytes << 17)
    array[:] = np.arange(len(array))
    return array

logging.basicConfig(stream=sys.stdout, format="%(message)s")
budget = MemoryBudget(16 << 20)
memory = budget.memory(Path(sys.argv[1]))
refuse_beyond(int(sys.argv[2]))
arrays = [filled("first/x", 6), filled("second/x", 24)]
budget.relieve()
assert budget.evicted_bytes == int(sys.argv[3]), budget.evicted_bytes
assert budget.resident_bytes() >= (30 << 20) - budget.evicted_bytes
for name in ("third/x", "fourth/x"):
    arrays.append(filled(name, 4))
    budget.relieve()
    assert budget.resident_bytes() > budget.max_bytes
for array in arrays:
    array += 1
refuse_beyond(resource.RLIM_INFINITY)
arrays.append(filled("fifth/x", 4) + 1)
budget.relieve()
assert budget.resident_bytes() <= budget.max_bytes, "with room on the disk it goes on"
for array in arrays:
    np.testing.assert_array_equal(array, np.arange(1, len(array) + 1))
print("nothing was lost")
"""


@pytest.mark.parametrize(
    ("most_bytes", "evicted_bytes"),
    [(0, 0), (2 * _MB + 1000, 0), (100 * _MB, 6 * _MB)],
    ids=["at once", "in the midst of a write", "after some"],
)
def test_what_the_kernel_refuses_to_write_stays(tmp_path: Path, most_bytes: int, evicted_bytes: int) -> None:
    """The second array's place in the file lies behind 16 GiB of room for the first."""
    arguments = (str(tmp_path), str(most_bytes), str(evicted_bytes))
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told, *rest = done.stdout.splitlines()
    assert told == f"{_REFUSED} ([Errno 27] File too large): the budget is exceeded"
    assert rest == ["nothing was lost"]


def _filled(memory: PagedMemory, mebibytes: int, name: str = "rows/x") -> npt.NDArray[np.int64]:
    made: npt.NDArray[np.int64] = memory.grown(name, np.zeros(0, np.int64), mebibytes << 17)
    made[:] = np.arange(len(made))
    return made


def test_the_last_of_a_disk_is_left_to_logs_and_commits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    budget = MemoryBudget(_BUDGET_BYTES, min_free_bytes=1 << 60)
    memory = budget.memory(tmp_path)
    array = _filled(memory, 24)
    with caplog.at_level(logging.WARNING):
        budget.relieve()
    assert [record.getMessage() for record in caplog.records] == [
        f"{_REFUSED} ([Errno 28] less than {(1 << 60) / 1e6:.0f} MB would be left on the disk): "
        "the budget is exceeded"
    ]
    assert budget.evicted_bytes == 0
    np.testing.assert_array_equal(array, np.arange(len(array)))


def test_what_has_its_room_on_a_full_disk_goes_there_again(tmp_path: Path) -> None:
    budget = MemoryBudget(_BUDGET_BYTES)
    memory = budget.memory(tmp_path)
    array, region = _filled(memory, 4), memory.regions()[0]
    chunks = np.arange(len(region.stamp))
    region.evict(chunks[:16])
    memory._scratch._min_free_bytes = 1 << 60
    array += 1
    region.evict(chunks[:16])
    with pytest.raises(OSError, match="would be left"):
        region.evict(chunks[8:24])
    resident = region.resident_bytes(0)
    assert not resident[:16].any()
    assert resident[16:].all()
    np.testing.assert_array_equal(array, np.arange(1, len(array) + 1))
