"""[videos of a dataset → **jobs** → copies]

The copies that `hcml data prepare` makes, one job for each video, and how they are written so that none is incomplete.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hcml_lightning.data import VideoDataModule
from hcml_lightning.data.annotations import copy_of
from hcml_lightning.data.decode import VideoError
from hcml_lightning.data.image_folder import is_image, probe_image
from hcml_lightning.data.links import refuse_links
from hcml_lightning.data.manifest import state_of
from hcml_lightning.tools.datasets.listing import Listing
from hcml_lightning.tools.datasets.transcode import Encoding, TargetError, make_copy

SETTINGS_NAME = "hcml_prepare.json"
LIST_FOLDERS = ("", "annotations", "labels", "ucfTrainTestlist")
LIST_SUFFIXES = (".csv", ".json", ".txt")


class Job(NamedTuple):
    """One video to be copied.

    Attributes:
        source: path of the video.
        path: path of the video relative to the root of the dataset.
        copy: path of its copy relative to `output`.
        output: root of the copied dataset.
        scratch: folder for unfinished files.
        encoding: how to encode; None to copy a folder of images as it is.
    """

    source: str
    path: str
    copy: str
    output: Path
    scratch: Path
    encoding: Encoding | None


def list_jobs(
    videos: Listing, output: Path, scratch: Path, encoding: Encoding, keep_images: bool
) -> list[Job]:
    """List the jobs for all videos.

    Raises:
        ValueError: if two videos would have the same copy, or one is not below the root of the dataset.
    """
    jobs: dict[str, Job] = {}
    for row, source in zip(videos.rows, videos.paths, strict=True):
        place = PurePosixPath(row.path)
        if ".." in place.parts or place.is_absolute():
            raise ValueError(
                f"{source}: only videos in the dataset folder can be copied; move it there, or remove it from the list"
            )
        keep = keep_images and os.path.isdir(source)
        copy = str(place if keep else place.with_name(copy_of(place.name)))
        if copy in jobs:
            raise ValueError(
                f"{row.path} and {jobs[copy].path} would have the same copy, {copy}; rename one of them"
            )
        jobs[copy] = Job(source, row.path, copy, output, scratch, None if keep else encoding)
    return list(jobs.values())


def convert(job: Job) -> list[str]:
    """Make one copy and return its row in the listing.

    Raises:
        TargetError: if the copy cannot be written.
    """
    size, modified = state_of(job.source)
    frames, error = "", ""
    if size == -1:
        error = "there is no such file"
    else:
        try:
            if job.encoding is None:
                _copy_folder(job)
            else:
                target = job.output / job.copy
                frames = str(make_copy(job.source, target, job.scratch, job.encoding))
        except VideoError as problem:
            error = str(problem).removeprefix(job.source).lstrip("/: ")
    return [job.path, job.copy, str(size), str(modified), frames, error]


def start_copy(root: Path, output: Path, scratch: Path) -> None:
    """Create the folders of the copy.

    Raises:
        ValueError: if `output` is the dataset itself or lies in it.
        TargetError: if the folders cannot be created.
    """
    if output.resolve() == root.resolve():
        raise ValueError(f"--output {output} is the dataset itself; choose another folder")
    if root.resolve() in output.resolve().parents:
        raise ValueError(
            f"--output {output} lies in the dataset, which would then contain the copies too; choose a folder outside "
            f"of {root}"
        )
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetError(f"--output {output} cannot be written: {error.strerror}") from error


def copy_lists(
    data: VideoDataModule, output: Path, scratch: Path, encoding: Encoding, keep_images: bool
) -> None:
    """Copy the lists, after checking that earlier copies in `output` were made with the same settings.

    Raises:
        ValueError: if the copy was begun with other settings, or links are not followed and a list is a link that leads
            out of the dataset.
        TargetError: if the lists cannot be written.
    """
    root = Path(data.root)
    lists = {
        folder: [
            path
            for path in sorted((root / folder).glob("*"))
            if path.suffix in LIST_SUFFIXES and not path.name.startswith("hcml_")
        ]
        for folder in LIST_FOLDERS
    }
    if not data.follow_links:
        refuse_links(data.root, [str(path) for paths in lists.values() for path in paths])
    settings = {**asdict(encoding), "keep_images": keep_images}
    file = output / SETTINGS_NAME
    if file.is_file() and (begun := json.loads(file.read_text())) != settings:
        raise ValueError(
            f"{output} was started with {begun}, not {settings}; choose another --output"
        )
    # Shards that start together write the same content, so each first writes to a file in its own scratch folder.
    partial = scratch / "list"
    try:
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.replace(file)
        for folder, paths in lists.items():
            for path in paths:
                (output / folder).mkdir(exist_ok=True)
                shutil.copyfile(path, partial)
                partial.replace(output / folder / path.name)
    except OSError as error:
        raise TargetError(f"--output {output} cannot be written: {error.strerror}") from error


def _copy_folder(job: Job) -> None:
    """Copy the images of a folder; the copy appears when it is complete.

    Raises:
        VideoError: if a link in the folder leads to something other than an image, or the folder is gone.
        TargetError: if the copy cannot be written.
    """
    target, partial = job.output / job.copy, job.scratch / str(os.getpid())
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in sorted(filter(is_image, os.listdir(job.source))):
            source = os.path.join(job.source, name)
            if os.path.islink(source):
                # A link may lead to any file, and only images may get into a copy that others will receive.
                probe_image(source)
            shutil.copyfile(source, partial / name)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    except OSError as error:
        if not os.path.isdir(job.source):
            raise VideoError(f"{job.source}: the folder is gone") from error
        raise TargetError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def clear(scratch: Path) -> None:
    """Remove the files of an interrupted run, so that processes left over from it have no file to rename."""
    shutil.rmtree(scratch)
    scratch.mkdir()
