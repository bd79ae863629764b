"""[**what was found in each video → records** → batch → model → loss → metric]

The manifest of a dataset, one row a video: written by `hcml data check`, which decodes every frame, and read by every
run after it, so that no run looks through the videos again. A row holds as long as size and time of its file do.
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

# Names of files are bytes, and need not be UTF-8: they go through files of text as they are.
NAME_ERRORS = "surrogateescape"

COLUMNS = (
    "id", "path", "label", "frames", "fps", "width", "height", "bytes", "modified", "digest", "error", "note", "index",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What is known of one video.

    Attributes:
        video_id: name of the video as its dataset calls it.
        path: from the root of the dataset, with `/`.
        label: name of its class, empty where unknown.
        size: bytes of the file, of all images of a folder together; -1 if it is missing.
        modified: time of change of the file or folder, nanoseconds; -1 if it is missing.
        info: frames and size; None if it cannot be read.
        digest: of the content of the file or of all images of a folder; empty where it could not be read.
        error: why it cannot be read, else empty.
        note: what is odd about it though it can be read, else empty.
        index: where its frames are, as `pack_index` writes it.
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
        """The row as it stands in the file."""
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
        """Read a row of the file.

        Raises:
            ValueError: if it has not the columns of a manifest.
        """
        name, path, label, frames, fps, width, height, size, modified, *rest = cells
        digest, error, note, index = rest
        info = VideoInfo(int(frames), float(fps), int(width), int(height)) if frames else None
        return cls(name, path, label, int(size), int(modified), info, digest, error, note, index)

    def stored(self) -> StoredVideo | None:
        """What the reader needs to know, None if the video cannot be read."""
        if self.info is None:
            return None
        return StoredVideo(self.info, self.size, self.modified, self.index)


def state_of(path: str) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds of a video file or a folder of images; (-1, -1) if missing."""
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
    """Digest of the content of a video file, or of all images of a folder with their names; empty if unreadable."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path]
    try:
        if os.path.isdir(path):
            names = sorted(filter(is_image, os.listdir(path)))
            digest.update(os.fsencode("\n".join(names)))
            files = [os.path.join(path, name) for name in names]
        for name in files:
            with open(name, "rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError:
        return ""
    return digest.hexdigest()


def is_current(row: ManifestRow, path: str) -> bool:
    """Whether a file is still what it was, by one look at it; of a folder of images only the folder is looked at."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return row.size == -1
    same_size = os.path.isdir(path) or stat.st_size == row.size
    return same_size and stat.st_mtime_ns == row.modified


def read_manifest(file: Path) -> dict[str, ManifestRow]:
    """Read the rows of a manifest, by the path of the video.

    Raises:
        ValueError: if the file is no manifest; the message says what to do.
    """
    with file.open(newline="", encoding="utf-8", errors=NAME_ERRORS) as lines:
        cells = csv.reader(lines)
        try:
            if tuple(next(cells, ())) != COLUMNS:
                raise ValueError("its first line is another")
            return {row.path: row for row in map(ManifestRow.from_cells, cells)}
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{file}, line {cells.line_num}: this is no manifest of this release ({error}); remove it and run "
                "`hcml data check` again."
            ) from error


def write_manifest(file: Path, rows: Iterable[ManifestRow]) -> None:
    """Write a manifest in one step, so that a reader never meets half of it."""
    write_csv(file, COLUMNS, (row.cells() for row in rows))


def write_csv(file: Path, columns: Iterable[str], rows: Iterator[list[str]]) -> None:
    """Write a csv file under another name, and give it its own name when it is on the disk.

    Raises:
        OSError: if it cannot be written; the message names the file.
    """
    # Processes that share the work may write the same at the same time.
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
    """Name the file that cannot be written; a full disk alone does not say which one it is."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{file} cannot be written: {error.strerror}. What was done so far is kept, and the same command resumes."
        ) from error
