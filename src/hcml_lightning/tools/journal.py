"""[what was found in each video → **journal** → what the next start knows]

Rows that survive the end of their process at any moment: each is appended as one line, and the next start goes on after
the last whole one.
"""

import csv
import fcntl
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class Journal:
    """Rows of text in a file, appended one at a time, by one process at a time.

    Args:
        file: where they are.
        num_columns: cells in a row; what has another number of them is no row.

    Raises:
        BlockingIOError: on entering, if another process has it open.
    """

    def __init__(self, file: Path, num_columns: int) -> None:
        self.file = file
        self.num_columns = num_columns
        self.rows: list[list[str]] = []
        self._descriptor = -1

    def __enter__(self) -> "Journal":
        """Read what is there, up to the last whole line."""
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"{self.file} is in use: the same command is running on this folder; wait for it or stop it."
            ) from error
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._descriptor, len(whole))
        lines = csv.reader(io.StringIO(whole.decode("utf-8", "replace"), newline=""))
        self.rows = [row for row in lines if len(row) == self.num_columns]
        return self

    def add(self, row: Sequence[str]) -> None:
        """Append a row; line ends within a cell become spaces."""
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(" ".join(c.splitlines()) for c in row)
        rest = memoryview(line.getvalue().encode())
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def remove(self) -> None:
        """Delete the file, once its rows stand elsewhere."""
        self.file.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let others in."""
        os.close(self._descriptor)
