"""[**what was found in each video → records** → batch → model → loss → metric]

The manifest of a dataset, with one row per video. `hcml data check` writes it after decoding every frame, and every
later run reads it, so that no run scans the videos again. A row is valid as long as size and modification time of its
file are unchanged.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hcml_lightning.data.image_folder import is_image
from hcml_lightning.data.stored_index import StoredVideo
from hcml_lightning.data.video_index import VideoInfo
from hcml_lightning.storage import whole

MANIFEST_NAME = "hcml_manifest.csv"

# File names are bytes and need not be UTF-8; this error handler keeps them unchanged in text files.
NAME_ERRORS = "surrogateescape"

COLUMNS = (
    "id", "path", "label", "frames", "fps", "width", "height", "bytes", "modified", "digest", "error", "note", "index",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What is known about one video.

    Attributes:
        video_id: name of the video in its dataset.
        path: path relative to the root of the dataset, with `/`.
        label: name of the class; empty if unknown.
        size: size in bytes of the file, or of all images of the folder together; -1 if it is missing.
        modified: modification time of the file or folder, nanoseconds; -1 if it is missing.
        info: number and size of the frames; None if the video cannot be read.
        digest: digest of the content of the file, or of all images of the folder; empty if it could not be read.
        error: why the video cannot be read, else empty.
        note: what is unusual about the video although it can be read, else empty.
        index: where the frames are, in the format of `pack_index`.
    """

    video_id: str
    path: str
    label: str
    size: int = -1
    modified: int = -1
    info: VideoInfo | None = None
    digest: str = ""
    error: str = ""
    note: str = ""
    index: str = ""

    def cells(self) -> list[str]:
        """Return the cells of the row, as they are written to the file."""
        found = ["", "", "", ""]
        if self.info is not None:
            info = self.info
            found = [str(info.num_frames), repr(info.fps), str(info.width), str(info.height)]
        place = [str(self.size), str(self.modified)]
        return [
            self.video_id, self.path, self.label, *found, *place, self.digest, self.error, self.note, self.index,
        ]  # fmt: skip

    @classmethod
    def from_cells(cls, cells: list[str]) -> "ManifestRow":
        """Return the row that the cells of a line of the file describe.

        Raises:
            ValueError: if the cells are not those of a manifest.
        """
        name, path, label, frames, fps, width, height, size, modified, *rest = cells
        digest, error, note, index = rest
        info = VideoInfo(int(frames), float(fps), int(width), int(height)) if frames else None
        return cls(name, path, label, int(size), int(modified), info, digest, error, note, index)

    def stored(self) -> StoredVideo | None:
        """Return what the reader needs to know; None if the video cannot be read."""
        if self.info is None:
            return None
        return StoredVideo(self.info, self.size, self.modified, self.index)


def state_of(path: str) -> tuple[int, int]:
    """Return size (bytes) and modification time (nanoseconds) of a video file or a folder of images; -1 if missing."""
    try:
        stat = os.stat(path)
        if not os.path.isdir(path):
            return stat.st_size, stat.st_mtime_ns
        with os.scandir(path) as entries:
            sizes = [entry.stat().st_size for entry in entries if is_image(entry.name)]
        return sum(sizes), stat.st_mtime_ns
    except FileNotFoundError:
        return -1, -1


def digest_of(path: str) -> str:
    """Return a digest of a video file, or of all images of a folder with their names; empty if unreadable."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path]
    try:
        if os.path.isdir(path):
            names = sorted(filter(is_image, os.listdir(path)))
            digest.update(os.fsencode("\n".join(names)))
            files = [os.path.join(path, name) for name in names]
        for name in files:
            # Opening a pipe would wait for somebody to write to it.
            if not os.path.isfile(name):
                return ""
            with open(name, "rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError:
        return ""
    return digest.hexdigest()


def is_current(row: ManifestRow, path: str) -> bool:
    """Return whether a row still describes its file, judging by size and modification time.

    For a folder of images, only the modification time of the folder itself is compared.
    """
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return row.size == -1
    same_size = os.path.isdir(path) or stat.st_size == row.size
    return same_size and stat.st_mtime_ns == row.modified


def read_manifest(file: Path) -> dict[str, ManifestRow]:
    """Read the rows of a manifest, keyed by the path of the video.

    Raises:
        ValueError: if the file is not a manifest of this release; the message says what to do.
    """
    with file.open(newline="", encoding="utf-8", errors=NAME_ERRORS) as lines:
        cells = csv.reader(lines)
        try:
            if tuple(next(cells, ())) != COLUMNS:
                raise ValueError("unexpected first line")
            return {row.path: row for row in map(ManifestRow.from_cells, cells)}
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{file}, line {cells.line_num}: is not a manifest of this release ({error}); delete it and run "
                "`hcml data check` again"
            ) from error


def write_manifest(file: Path, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest in one step, so that a reader never sees half of it."""
    write_csv(file, COLUMNS, (row.cells() for row in rows))


def write_csv(file: Path, columns: Iterable[str], rows: Iterator[list[str]]) -> None:
    """Write a csv file under a temporary name, and rename it when it is on the disk.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    # The temporary name contains the process id, because processes that share the work may write the same file at once.
    with (
        named_errors(file),
        whole(file, f".{os.getpid()}.part") as partial,
        partial.open("x", newline="", encoding="utf-8", errors=NAME_ERRORS) as lines,
    ):
        writer = csv.writer(lines)
        writer.writerow(columns)
        writer.writerows(rows)


@contextmanager
def named_errors(file: Path) -> Iterator[None]:
    """Add the name of the file to an OSError raised inside, because the error of a full disk does not contain it."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{file} cannot be written: {error.strerror}. What was done so far is kept; fix this and run the same "
            "command again to resume."
        ) from error
