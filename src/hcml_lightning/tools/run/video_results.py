"""[multi-view test → **what was predicted for each video** → report]

One row for each tested video, so that confusions can be examined after the test.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hcml_lightning.tools.console.output import write_text

FILE_NAME = "predictions.csv"


class VideoResult(NamedTuple):
    """What a test found in one video.

    Attributes:
        video_id: its name.
        label: name of its class; empty if that is unknown.
        predicted: name of the likeliest class.
        probability: of that class, the mean over all views.
    """

    video_id: str
    label: str
    predicted: str
    probability: float


def write_predictions(path: Path, videos: Sequence[VideoResult]) -> None:
    """Write one row for each video; the file appears when it is complete."""
    text = io.StringIO(newline="")
    # Keep csv's own line ends (\r\n): with others, a carriage return in a name is not quoted and would end the row.
    writer = csv.writer(text)
    writer.writerow(VideoResult._fields)
    writer.writerows([*video[:3], f"{video.probability:.6f}"] for video in videos)
    write_text(path, text.getvalue())


def read_predictions(path: Path) -> list[VideoResult]:
    """Read what `write_predictions` wrote.

    Raises:
        ValueError: if the file holds something else.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != VideoResult._fields:
        raise ValueError(
            f"{path}: expected the columns {', '.join(VideoResult._fields)}, got {rows[0] if rows else 'nothing'}; "
            "run `hcml test` to write it again"
        )
    try:
        return [VideoResult(name, label, top, float(p)) for name, label, top, p in rows[1:]]
    except ValueError as error:
        raise ValueError(
            f"{path}: a row is not a video with its three results ({error}); run `hcml test` to write it again"
        ) from error
