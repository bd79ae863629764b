"""[your own videos + recogniser → **what is found in each** → csv, json, annotated copies]

What `hcml predict` does after its options were parsed.
"""

import argparse
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, groupby
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hcml_lightning.data.annotations import is_video, walk_videos
from hcml_lightning.data.dataset import ClipRecipe
from hcml_lightning.data.decode import VideoError
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.console.output import counted, printable
from hcml_lightning.tools.prediction.annotate import annotate
from hcml_lightning.tools.prediction.prediction_files import Prediction, open_results
from hcml_lightning.tools.prediction.recognizer import Recognition, Recognizer
from hcml_lightning.tools.prediction.spans import Span, SpanViews, read_spans


class _Seen(NamedTuple):
    """Some spans of a video, or the error that reading them gave."""

    video: str
    spans: list[SpanViews]
    error: str


class _Reading(Dataset[_Seen]):
    """Views of spans of videos; a video that cannot be read gives an entry with its error and raises nothing."""

    def __init__(self, work: Sequence[tuple[str, list[Span] | None]], recipe: ClipRecipe) -> None:
        self.work, self.recipe = work, recipe

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, index: int) -> _Seen:
        video, spans = self.work[index]
        try:
            return _Seen(video, read_spans(video, spans, self.recipe), "")
        except VideoError as error:
            return _Seen(video, [], str(error))


def find_videos(paths: Sequence[str]) -> list[str]:
    """List the videos that paths and patterns name, in the given order and each once.

    Args:
        paths: video files, folders of frames, folders of videos, and patterns with `*`, `?` and `**` of all of these.

    Raises:
        FileNotFoundError: if a path does not exist, or a pattern or a folder holds no video.
    """
    videos: list[str] = []
    for path in paths:
        # The name of a file may look like a pattern: "what [1080p].mp4".
        matches = [path] if os.path.exists(path) else _matches(path)
        found = [v for m in matches for v in (walk_videos(m) if os.path.isdir(m) else [m])]
        if not found:
            what = "holds neither videos nor frames" if matches else "does not exist"
            raise FileNotFoundError(
                f"{path} {what}; pass video files, folders of them, or a pattern such as 'videos/**/*.mp4'"
            )
        videos += found
    unique: dict[str, str] = {}
    for video in videos:
        # Paths that name the same video in different ways have the same absolute path.
        unique.setdefault(os.path.abspath(video), video)
    return list(unique.values())


def _matches(pattern: str) -> list[str]:
    """Return the folders and videos that a pattern matches; one such as `*` also matches other files next to them."""
    paths = sorted(glob.glob(pattern, recursive=True))
    return [path for path in paths if os.path.isdir(path) or is_video(os.path.basename(path))]


def predict(
    recognizer: Recognizer,
    videos: Sequence[str],
    window: tuple[float, float] | None = None,
    num_workers: int = 0,
) -> Iterator[Prediction]:
    """Recognise the videos and yield the prediction for each of them.

    Args:
        recognizer: the recogniser to use.
        videos: paths of files, or of folders of frames.
        window: length of windows and hop from one to the next, seconds; None for one result for each whole video.
        num_workers: number of processes that decode.

    Raises:
        ValueError: if window or hop is not positive.
    """
    work: list[tuple[str, list[Span] | None]] = []
    for video in videos:
        try:
            groups = recognizer.window_groups(video, *window) if window else [None]
        except VideoError:
            # Reading the whole video in the loader gives the same error, which is then reported.
            groups = [None]
        work += [(video, group) for group in groups]
    reading = _Reading(work, recognizer.recipe)
    loader = DataLoader(reading, batch_size=None, num_workers=min(num_workers, len(work)))
    seen = tqdm(loader, desc="predict", disable=None)
    for video, parts in groupby(seen, key=lambda part: part.video):
        found: list[Recognition] = []
        error = ""
        for part in parts:
            found += [recognizer.recognise(span) for span in part.spans]
            error = error or part.error
        yield Prediction(video, found, error)


def copy_paths(videos: Sequence[str], folder: Path) -> dict[str, Path]:
    """Choose the path of each video's annotated copy: NAME.annotated.mp4, or NAME_2.annotated.mp4 if that is taken.

    No other files are expected to have such names, so that the copies of an earlier run are replaced.

    Raises:
        ValueError: if a copy would replace one of the videos.
    """
    originals = {os.path.realpath(video) for video in videos}
    taken: set[str] = set()
    paths = {}
    for video in videos:
        stem = Path(video).stem
        names = chain([stem], (f"{stem}_{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        path = paths[video] = folder / f"{name}.annotated.mp4"
        if os.path.realpath(path) in originals:
            raise ValueError(
                f"--annotate {folder}: the copy of {video} would overwrite {path}, which is itself one of the videos; "
                "choose another folder"
            )
    return paths


def _print_numbered(copies: Mapping[str, Path]) -> None:
    """Print of which video each copy is that had to take another name."""
    for video, path in copies.items():
        if path.is_file() and path.name != f"{Path(video).stem}.annotated.mp4":
            print(f"{printable(path.name)} is the copy of {printable(video)}")


def predict_all(options: argparse.Namespace) -> int:
    """Recognise all videos, write the predictions, and report the videos that could not be read.

    Args:
        options: the parsed options of `hcml predict`.

    Returns:
        0 if at least one video was read, else 1.
    """
    window = None
    if options.window is not None:
        window = options.window, options.window / 2 if options.hop is None else options.hop
    recognizer = Recognizer.from_checkpoint(options.ckpt_path, options.device)
    videos = find_videos(options.paths)
    copies = copy_paths(videos, options.annotate) if options.annotate is not None else {}
    unread: list[str] = []
    undrawn: list[str] = []
    read = 0
    with open_results(options.output, recognizer.class_names, options.top_k) as write, quiet():
        for prediction in predict(recognizer, videos, window, options.num_workers):
            write(prediction)
            read += bool(prediction.found)
            if prediction.error:
                how = "read only in part" if prediction.found else "could not be read"
                unread.append(f"{how}: {printable(prediction.error)}")
            if copies and prediction.found:
                try:
                    path = copies[prediction.video]
                    annotate(prediction.video, prediction.found, path, options.top_k)
                except VideoError as error:
                    undrawn.append(str(error))
    # Printed last, because the progress bar occupies the line until then.
    _print_numbered(copies)
    for fault in undrawn:
        print(f"could not be annotated: {printable(fault)}")
    for fault in unread:
        print(fault)
    if unread:
        print(
            "Replace these or leave them out; ffmpeg can convert any file that a player can show."
        )
    errors = ", which also lists the errors" if unread else ""
    print(f"recognised {read} of {counted(len(videos), 'video')} -> {options.output}{errors}")
    return 0 if read else 1
