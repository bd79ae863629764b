"""[list of videos → **records in one block of memory** → batch → model → loss → metric]

Worker processes that are forked share the memory of their parent until one of them writes to it, and to look at an
object is to write to it: its references are counted. With a list of records every worker comes to a copy of its own,
115 MB for the 240 000 training videos of Kinetics with their manifest. In bytes nothing is counted.
"""

import pickle
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, cast, overload

import numpy as np

Record = TypeVar("Record")


class PackedList(Sequence[Record], Generic[Record]):
    """A list that cannot be changed, of which each entry is a copy made when it is asked for.

    Args:
        entries: what it holds; anything that can be pickled.

    Example:
        >>> videos = PackedList(["a.mp4", "b.mp4", "c.mp4"])
        >>> len(videos), videos[1], videos[-2:]
        (3, 'b.mp4', ['b.mp4', 'c.mp4'])
    """

    def __init__(self, entries: Iterable[Record]) -> None:
        packed = [pickle.dumps(entry, pickle.HIGHEST_PROTOCOL) for entry in entries]
        # An array, since the numbers of a list are objects too.
        self._ends = np.fromiter(accumulate(map(len, packed), initial=0), np.int64)
        self._block = b"".join(packed)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Unpack one entry, or those of a slice.

        Raises:
            IndexError: if there is none at that place.
        """
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        start, end = self._ends[place : place + 2]
        return cast(Record, pickle.loads(memoryview(self._block)[start:end]))
