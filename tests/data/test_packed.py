"""A list of records that worker processes share: the same entries, in memory that is not copied."""

import gc
import os
import pickle
import resource

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


def _copied_by_a_worker(records) -> int:
    """Memory in kB that a forked process copies by reading all records.

    A page is copied when it is first written to, which is a minor fault. The memory that belongs to the process alone
    would grow with what the threads of its parent write, too.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # A collection of garbage writes to the objects of all tests.
        gc.disable()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for i in range(len(records)):
            _ = records[i].label
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        os.write(writing, str(faults * resource.getpagesize() // 1024).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as found:
        return int(found.read())


def test_a_forked_worker_copies_no_records():
    packed = PackedList(RECORDS)
    assert _copied_by_a_worker(packed) < 1000 < 3000 < _copied_by_a_worker(RECORDS)
