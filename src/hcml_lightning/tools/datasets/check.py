"""[a dataset → **what is wrong with it, and its manifest**]

`hcml data check`: decodes every frame of every video of a dataset, reports what is wrong, and writes the manifest that
all runs on this dataset use from then on. A second check decodes only videos that are new or have changed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
from tqdm import tqdm

from hcml_lightning.data.decode import VideoError, VideoInfo, check_video
from hcml_lightning.data.manifest import (
    COLUMNS,
    MANIFEST_NAME,
    ManifestRow,
    digest_of,
    read_manifest,
    state_of,
    write_manifest,
)
from hcml_lightning.data.stored_index import find_index, pack_index
from hcml_lightning.data.video_file import open_video
from hcml_lightning.data.video_index import VideoIndex
from hcml_lightning.tools.console.output import counted
from hcml_lightning.tools.datasets.check_report import print_report
from hcml_lightning.tools.datasets.journal import Journal
from hcml_lightning.tools.datasets.listing import Listing, list_videos, raise_if_gone
from hcml_lightning.tools.datasets.pool import Lost, run_each
from hcml_lightning.tools.training.data_options import DataParser, data_parser

# Characters. A longer index, as of an hour with uneven time stamps, would not fit into the cells of every csv reader.
LONGEST_INDEX = 100_000
# A manifest keeps these errors, so their beginnings must stay as they are.
CHANGED = "the content is not the one that was checked"
UNREAD = "could not be read to compare it with what was checked"
TO_DO = {
    CHANGED: ", although size and time are the same; copy the file again, or `touch` it if the new content is right",
    UNREAD: "; make it readable and run with --verify again",
}


class Scan(NamedTuple):
    """The result of a check.

    Attributes:
        rows: of the manifest.
        examined: number of videos that were new or changed, and therefore decoded.
        compared: number of other videos whose content was compared with their digests.
        equal: number of those whose content is the same.
    """

    rows: list[ManifestRow]
    examined: int
    compared: int
    equal: int


def examine(path: str) -> ManifestRow:
    """Decode a whole video; return its manifest row with id, path and label left empty."""
    size, modified = state_of(path)
    row = ManifestRow("", "", "", size, modified)
    if size == -1:
        return replace(row, error="there is no such file")
    row = replace(row, digest=digest_of(path))
    try:
        info = check_video(path)
        if os.path.isdir(path):
            return replace(row, info=info)
        index = find_index(path)
        note = _odd_header(path, info, index)
    except VideoError as error:
        return replace(row, error=str(error).removeprefix(path).lstrip("/: "))
    packed = pack_index(index)
    return replace(row, info=info, note=note, index=packed if len(packed) < LONGEST_INDEX else "")


def _odd_header(path: str, info: VideoInfo, index: VideoIndex) -> str:
    """Describe how a header contradicts the frames: in their number, or in duration if it gives none; else empty."""
    with open_video(path) as (container, stream):
        promised = stream.frames
        alone = len(container.streams) == 1
        seconds = (container.duration or 0) / av.time_base
        units = float(stream.time_base or 0)
    # Files with packed B-frames, of which UCF-101 and HMDB-51 have hundreds, promise one frame too many.
    if promised and abs(promised - info.num_frames) > 1:
        return f"the header promises {promised} frames, but there are {info.num_frames}"
    if promised or not alone or not info.fps:
        return ""
    ends = info.num_frames / info.fps
    if not index.sequential:
        # Some frames may last longer than others.
        ends = max(ends, float(index.pts[-1] - index.pts[0]) * units + 1 / info.fps)
    if seconds - ends > 1.5 / info.fps:
        return f"the header promises {seconds:.2f} s, but the frames end after {ends:.2f} s"
    return ""


def scan(
    listing: Listing, file: Path, num_processes: int, limit_s: float, verify: bool = False
) -> Scan:
    """Examine all videos that are new, changed or unread since the manifest and the journal of an interrupted check.

    Args:
        listing: the videos.
        file: the manifest, written at the end.
        num_processes: processes that decode.
        limit_s: seconds after which a video is given up.
        verify: whether to compare the content of the unchanged videos with their recorded digests.
    """
    known = read_manifest(file) if file.is_file() else {}
    with Journal(file.with_name(f".{file.name}.journal"), len(COLUMNS)) as journal:
        known = known | {row.path: row for row in map(ManifestRow.from_cells, journal.rows)}
        unknown: dict[str, ManifestRow] = {}
        current: dict[str, ManifestRow] = {}
        for row, path in zip(listing.rows, listing.paths, strict=True):
            old = known.get(row.path)
            # Without a digest, it was never read to its end: the time was up, memory ran out, or a disk was gone.
            read = old is not None and (old.digest or not old.error)
            if old is not None and read and (old.size, old.modified) == state_of(path):
                current[path] = replace(old, video_id=row.video_id, label=row.label)
            else:
                unknown[path] = row
        compared = equal = 0
        if verify:
            compared = sum(bool(row.digest) for row in current.values())
            current, again = verified(current, num_processes, limit_s)
            differ = sum(row.error.startswith((CHANGED, UNREAD)) for row in current.values())
            equal = compared - differ
            unknown |= again
        rows = {row.path: row for row in current.values()}
        results = run_each(examine, unknown, num_processes, limit_s)
        for path, result in tqdm(results, "check", len(unknown), unit=" videos", disable=None):
            row = unknown[path]
            if isinstance(result, Lost):
                size, modified = state_of(path)
                result = ManifestRow("", "", "", size, modified, error=result.reason)
            if result.size == -1:
                raise_if_gone(str(file.parent), row.path)
            result = replace(result, video_id=row.video_id, path=row.path, label=row.label)
            journal.add(result.cells())
            rows[row.path] = result
        ordered = [rows[row.path] for row in listing.rows]
        write_manifest(file, ordered)
        journal.remove()
    return Scan(ordered, len(unknown), compared, equal)


def verified(
    rows: Mapping[str, ManifestRow], num_processes: int, limit_s: float
) -> tuple[dict[str, ManifestRow], dict[str, ManifestRow]]:
    """Compare the content of videos with the digests in their rows.

    Args:
        rows: the known rows, by path.
        num_processes: processes that read.
        limit_s: seconds after which a video is given up.

    Returns:
        The rows, with an error if the content differs or could not be read; and the rows to examine again, because
        they have such an error from before and their content now matches.
    """
    kept = {path: row for path, row in rows.items() if not row.digest}
    back: dict[str, ManifestRow] = {}
    read = [path for path, row in rows.items() if row.digest]
    results = run_each(digest_of, read, num_processes, limit_s)
    for path, digest in tqdm(results, "verify", len(read), unit=" videos", disable=None):
        row = rows[path]
        unread = digest == "" or isinstance(digest, Lost)
        if unread or digest != row.digest:
            why = f" ({digest.reason})" if isinstance(digest, Lost) else ""
            error = UNREAD if unread else CHANGED
            kept[path] = replace(
                row, info=None, index="", note="", error=error + why + TO_DO[error]
            )
        elif row.error.startswith((CHANGED, UNREAD)):
            back[path] = row
        else:
            kept[path] = row
    return kept, back


def make_parser() -> DataParser:
    """Make the parser of `hcml data check`."""
    parser = data_parser(
        "check",
        "Decode every frame of every video, report what is wrong, and write the manifest that all later runs use. "
        "An interrupted check resumes; a repeated one decodes only what is new or has changed.",
    )
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="processes that decode"
    )
    parser.add_argument(
        "--limit_s", type=float, default=900.0, help="seconds after which to give up on a video"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all files, and report those whose content changed while size and time did not",
    )
    return parser


def main(words: Sequence[str]) -> int:
    """Check the videos and lists of a dataset, print a report and write the manifest.

    Returns:
        0 if nothing is wrong, else 1.
    """
    parser = make_parser()
    data, options = parser.read(words)
    file = Path(data.root) / MANIFEST_NAME
    try:
        listing = list_videos(data)
        processes = max(1, options.num_workers)
        found = scan(listing, file, processes, options.limit_s, options.verify)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_report(data, listing.splits, listing.faults, listing.links, found.rows)
    print(f"\nnewly checked: {found.examined} of {counted(len(found.rows), 'video')} -> {file}")
    if options.verify:
        videos = counted(found.compared, "video")
        print(f"verified: {found.equal} of {videos} checked earlier have the same content")
    return int(bool(listing.faults) or any(row.error for row in found.rows))
