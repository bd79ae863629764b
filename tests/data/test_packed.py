"""A list of records that worker processes share: the same entries, in memory that is not copied."""

import os
import pickle
from pathlib import Path

import pytest

from hcml_lightning.data.dataset import VideoRecord
from hcml_lightning.data.packed import PackedList

RECORDS = [VideoRecord(f"videos/{i:05d}.mp4", i % 7, str(i)) for i in range(50_000)]


@pytest.mark.parametrize("entries", [[], [None], ["", "a", "bc"], RECORDS[:5]])
def test_packed_list_behaves_like_a_list(entries):
    packed = PackedList(entries)
    assert len(packed) == len(entries)
    assert list(packed) == entries
    assert list(pickle.loads(pickle.dumps(packed))) == entries
    assert [packed[i] for i in range(-len(entries), len(entries))] == entries * 2
    for part in (slice(None), slice(1, None), slice(-2, None), slice(None, None, -2)):
        assert packed[part] == entries[part]
    for outside in (len(entries), -len(entries) - 1):
        with pytest.raises(IndexError):
            packed[outside]


def _own_memory() -> int:
    """Memory in kB that this process alone holds, because it has written to it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def _copied_by_a_worker(records) -> int:
    """Memory in kB that a forked process copies by reading all records."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = _own_memory()
        for i in range(len(records)):
            _ = records[i].label
        os.write(writing, str(_own_memory() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as found:
        return int(found.read())


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux")
def test_a_forked_worker_copies_no_records():
    packed = PackedList(RECORDS)
    assert _copied_by_a_worker(packed) < 1000 < 3000 < _copied_by_a_worker(RECORDS)
