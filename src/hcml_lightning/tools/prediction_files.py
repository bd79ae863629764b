"""[what was found in videos → **csv, json**]"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hcml_lightning.tools.recognizer import Recognition

COLUMNS = ("video", "start", "end", "rank", "class", "probability", "error")


class Prediction(NamedTuple):
    """What was found in one video.

    Attributes:
        video: its path.
        found: one entry for the whole video, or for each window; empty if nothing could be read.
        error: what could not be read, else empty.
    """

    video: str
    found: list[Recognition]
    error: str


def write_csv(path: Path, predictions: Sequence[Prediction], top_k: int) -> None:
    """Write one row for each rank of each span (start and end in seconds), and one for each error.

    The file appears when it is complete.

    Args:
        path: to write to.
        predictions: of all videos.
        top_k: ranks of each span.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for video, found, error in predictions:
            for span in found:
                times = f"{span.start:.3f}", f"{span.end:.3f}"
                writer.writerows(
                    [video, *times, rank, name, f"{probability:.6f}", ""]
                    for rank, (name, probability) in enumerate(span.top(top_k), start=1)
                )
            if error:
                writer.writerow([video, "", "", "", "", "", error])
    partial.replace(path)


def json_content(
    predictions: Sequence[Prediction], class_names: Sequence[str], top_k: int
) -> dict[str, object]:
    """Return what the csv holds, nested: videos, their spans, and the classes of each span, best first."""
    videos = [
        {
            "video": video,
            "spans": [
                {
                    "start": round(span.start, 3),
                    "end": round(span.end, 3),
                    "classes": [
                        {"class": name, "probability": round(probability, 6)}
                        for name, probability in span.top(top_k)
                    ],
                }
                for span in found
            ],
            "error": error or None,
        }
        for video, found, error in predictions
    ]
    return {"class_names": list(class_names), "videos": videos}
