"""[a dataset → **its copy for training**]

`hcml data prepare`: copies a dataset with its lists, each video small and quick to read. An interrupted run can be
resumed, the jobs of a cluster can share the work, and videos that cannot be converted are listed.
"""

import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from hcml_lightning.data.manifest import NAME_ERRORS, state_of, write_csv
from hcml_lightning.tools.console.output import counted, print_group
from hcml_lightning.tools.datasets.journal import Journal
from hcml_lightning.tools.datasets.listing import list_videos, raise_if_gone
from hcml_lightning.tools.datasets.pool import Lost, run_each
from hcml_lightning.tools.datasets.prepare_jobs import (
    Job,
    clear,
    convert,
    copy_lists,
    list_jobs,
    start_copy,
)
from hcml_lightning.tools.datasets.transcode import Encoding, TargetError
from hcml_lightning.tools.training.data_options import DataParser, data_parser

COLUMNS = ("path", "copy", "bytes", "modified", "frames", "error")


class Shard(NamedTuple):
    """A part of the work: `number` of `total`, counted from 1."""

    number: int
    total: int

    @property
    def name(self) -> str:
        """Suffix for the names of its files; empty if it is all of the work."""
        return f"_{self.number}-of-{self.total}" if self.total > 1 else ""

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse a text such as "3/8".

        Raises:
            ValueError: if it is not i/n with i from 1 to n.
        """
        number, _, total = text.partition("/")
        if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
            raise ValueError(f"--shard {text}: expected i/n with i from 1 to n, as in --shard 3/8")
        return cls(int(number), int(total))


def copied_earlier(jobs: Sequence[Job], listing: Path, journal: Journal) -> dict[str, list[str]]:
    """Return the rows of the videos whose copies exist and are up to date, by the path of the video.

    Args:
        jobs: all videos of this shard.
        listing: csv file with the rows of an earlier run that finished; may be missing.
        journal: rows of an earlier run that was interrupted.
    """
    known = {row[0]: row for row in [*_read_rows(listing), *journal.rows]}
    return {job.path: known[job.path] for job in jobs if _is_done(job, known.get(job.path))}


def prepare(
    jobs: Sequence[Job], root: str, journal: Journal, num_processes: int
) -> Iterator[list[str]]:
    """Make copies, and yield the rows of their videos.

    Args:
        jobs: the videos to copy.
        root: folder of the dataset.
        journal: the rows are added to it.
        num_processes: number of processes that convert.

    Raises:
        FileNotFoundError: if the whole dataset has become unavailable.
        TargetError: if copies cannot be written.
    """
    results = run_each(convert, jobs, num_processes, limit_s=3600)
    bar = tqdm(results, "prepare", len(jobs), unit=" videos", disable=None)
    for job, result in bar:
        row = result
        if isinstance(result, Lost):
            size, modified = state_of(job.source)
            row = [job.path, job.copy, str(size), str(modified), "", result.reason]
        if row[-1]:
            raise_if_gone(root, job.path)
        journal.add(row)
        yield row


def make_parser() -> DataParser:
    """Make the parser of `hcml data prepare`."""
    parser = data_parser(
        "prepare",
        "Copy a dataset with its lists for training: short side scaled down, H.264 with short GOP, no audio. After "
        "an interruption, run the same command again to resume.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the copy")
    parser.add_argument("--short_side", type=int, default=256, help="pixels; 256 or 340 are usual")
    parser.add_argument("--gop", type=int, default=12, help="frames from one key frame to the next")
    parser.add_argument("--crf", type=int, default=20, help="quality of H.264; lower is better")
    parser.add_argument("--keep_images", action="store_true", help="copy image folders as they are")
    parser.add_argument("--shard", default="1/1", help="part i/n of the videos, i from 1 to n")
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="processes that convert"
    )
    return parser


def main(words: Sequence[str]) -> int:
    """Copy a dataset for training, or one shard of it, and list the videos that could not be converted.

    Returns:
        0 if every video was converted, else 1.
    """
    parser = make_parser()
    data, options = parser.read(words)
    encoding = Encoding(options.short_side, options.gop, options.crf)
    output: Path = options.output
    try:
        shard = Shard.parse(options.shard)
        videos = list_videos(data)
        scratch = output / ".hcml_prepare" / f"part{shard.name}"
        start_copy(Path(data.root), output, scratch)
        jobs = list_jobs(videos, output, scratch, encoding, options.keep_images)
        jobs = jobs[shard.number - 1 :: shard.total]
        listing = output / f"hcml_prepared{shard.name}.csv"
        with Journal(scratch.with_suffix(".journal"), len(COLUMNS)) as journal:
            clear(scratch)
            copy_lists(data, output, scratch, encoding, options.keep_images)
            earlier = copied_earlier(jobs, listing, journal)
            todo = [job for job in jobs if job.path not in earlier]
            made = prepare(todo, data.root, journal, max(1, options.num_workers))
            found = earlier | {row[0]: row for row in made}
            rows = [found[job.path] for job in jobs]
            write_csv(listing, COLUMNS, iter(rows))
            journal.remove()
        _finish(scratch, shard)
    except TargetError as error:
        parser.error(
            f"{error}. The copies made so far are complete; fix this and run the same command to resume."
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return _report(rows, len(earlier), videos.faults, listing)


def _is_done(job: Job, row: list[str] | None) -> bool:
    """Return whether the copy of the current state of the source exists; failures are tried again."""
    if row is None or row[-1]:
        return False
    same = [str(value) for value in state_of(job.source)] == row[2:4]
    return same and (job.output / job.copy).exists()


def _finish(scratch: Path, shard: Shard) -> None:
    shutil.rmtree(scratch)
    # Keep the parent folder for other shards: one may be about to start in it, or left files there to resume from.
    if shard.total == 1 and not any(scratch.parent.iterdir()):
        scratch.parent.rmdir()


def _read_rows(listing: Path) -> list[list[str]]:
    if not listing.is_file():
        return []
    with listing.open(newline="", encoding="utf-8", errors=NAME_ERRORS) as lines:
        return [row for row in list(csv.reader(lines))[1:] if len(row) == len(COLUMNS)]


def _report(rows: Sequence[list[str]], earlier: int, faults: Sequence[str], listing: Path) -> int:
    failed = [row for row in rows if row[-1]]
    already = f"; already there: {earlier}" if earlier else ""
    made = len(rows) - len(failed) - earlier
    print(f"converted {made} of {counted(len(rows), 'video')}{already}")
    print_group("could not be converted", [f"{row[0]}: {row[-1]}" for row in failed])
    print_group("in the lists", faults, "error")
    print(f"list of all videos -> {listing}")
    return int(bool(failed))
