"""[what was found in each video → **journal** → what the next start knows]

Rows that are kept even if the process is killed at any moment: each is appended as one line, and the next start
continues after the last complete line.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hcml_lightning.data.manifest import named_errors


class Journal:
    """Rows of text in a file, appended one at a time, by one process at a time.

    Args:
        file: path of the file.
        num_columns: cells in a row; lines with another number of cells are ignored.

    Raises:
        BlockingIOError: on entering, if another process has it open.
        ValueError: on entering, if the file is a link.
        OSError: on entering, if it cannot be written.
    """

    def __init__(self, file: Path, num_columns: int) -> None:
        self.file = file
        self.num_columns = num_columns
        self.rows: list[list[str]] = []
        self._descriptor = -1

    def __enter__(self) -> "Journal":
        """Lock the file and read its rows, cutting off an incomplete last line."""
        # Do not follow a link, because its target would be truncated and written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        if self.file.is_symlink():
            raise ValueError(
                f"{self.file} is a link to {self.file.readlink()}, which would be written to; remove it"
            )
        with named_errors(self.file):
            self._descriptor = os.open(self.file, flags, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"{self.file} is in use: the same command is running on this folder; wait for it to end, or stop it"
            ) from error
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._descriptor, len(whole))
        self.rows = [row for line in whole.splitlines() if (row := self._parse(line))]
        return self

    def add(self, row: Sequence[str]) -> None:
        """Append a row, which may hold any characters.

        Raises:
            OSError: if it cannot be written; the message names the file.
        """
        rest = memoryview(f"{json.dumps(list(row))}\n".encode())
        with named_errors(self.file):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def _parse(self, line: bytes) -> list[str] | None:
        """Return the row in a line, None if the line is not a row."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
        whole = isinstance(row, list) and len(row) == self.num_columns
        return row if whole and all(isinstance(cell, str) for cell in row) else None

    def remove(self) -> None:
        """Delete the file, after its rows were saved elsewhere."""
        self.file.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, which releases the lock."""
        os.close(self._descriptor)
