"""[what was found in videos → **csv, json**]"""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from hcml_lightning.tools.console.output import counted

if TYPE_CHECKING:
    from hcml_lightning.tools.prediction.recognizer import Recognition

COLUMNS = ("video", "start", "end", "rank", "class", "probability", "error")


class Prediction(NamedTuple):
    """What was found in one video.

    Attributes:
        video: its path.
        found: one entry for the whole video, or for each window; empty if nothing could be read.
        error: why the video or a part of it could not be read, else empty.
    """

    video: str
    found: "list[Recognition]"
    error: str


Write = Callable[[Prediction], Any]


@contextmanager
def open_results(path: Path, class_names: Sequence[str], top_k: int) -> Iterator[Write]:
    """Open a csv or json file for predictions that are written video by video.

    The file appears under its name when it is complete. If an exception ends the block earlier, what was written until
    then is kept in NAME.partial.csv, and a message says so. The partial file of another run is kept too: then the next
    free name is used, NAME.partial_2.csv.

    Args:
        path: file to write; ends in .csv or .json.
        class_names: names of all classes that the network knows.
        top_k: number of classes written for each span.

    Yields:
        The function that writes the prediction for one video.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"--output: {path} is a folder; pass the path of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _open_partial(path)
    partial = Path(file.name)
    written = 0

    def count(prediction: Prediction) -> None:
        nonlocal written
        write(prediction)
        written += 1

    try:
        with file, FORMATS[path.suffix](file, class_names, top_k) as write:
            yield count
        partial.replace(path)
    except BaseException:
        if written:
            kept = counted(written, "video")
            print(f"the results of {kept} are kept in {partial}", file=sys.stderr)
        else:
            partial.unlink()
        raise


def _open_partial(path: Path) -> TextIO:
    """Create the file that holds the predictions until they are complete, under the first name that is free."""
    partial, number = path.with_name(f"{path.stem}.partial{path.suffix}"), 1
    while True:
        try:
            # Buffered line by line, so that even a killed process leaves what it has found.
            return partial.open(
                "x", buffering=1, newline="", encoding="utf-8", errors="surrogateescape"
            )
        except FileExistsError:
            print(
                f"{partial} is kept: another run was interrupted, or is still writing it",
                file=sys.stderr,
            )
            number += 1
            partial = path.with_name(f"{path.stem}.partial_{number}{path.suffix}")


@contextmanager
def _csv_rows(file: TextIO, class_names: Sequence[str], top_k: int) -> Iterator[Write]:
    """Write one row for each rank of each span (start and end in seconds), and one for each error."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)

    def write(prediction: Prediction) -> None:
        video, found, error = prediction
        for span in found:
            times = f"{span.start:.3f}", f"{span.end:.3f}"
            writer.writerows(
                [video, *times, rank, name, f"{probability:.6f}", ""]
                for rank, (name, probability) in enumerate(span.top(top_k), start=1)
            )
        if error:
            writer.writerow([video, "", "", "", "", "", error])

    yield write


@contextmanager
def _json_entries(file: TextIO, class_names: Sequence[str], top_k: int) -> Iterator[Write]:
    """Write the content of the csv nested: videos, their spans, the classes of each, best first; one line a video."""
    file.write(f'{{"class_names": {json.dumps(list(class_names))},\n"videos": [')
    before = "\n"

    def write(prediction: Prediction) -> None:
        nonlocal before
        file.write(before + json.dumps(_entry(prediction, top_k)))
        before = ",\n"

    try:
        yield write
    finally:
        file.write("\n]}\n")


FORMATS: dict[str, Callable[[TextIO, Sequence[str], int], AbstractContextManager[Write]]] = {
    ".csv": _csv_rows,
    ".json": _json_entries,
}


def _entry(prediction: Prediction, top_k: int) -> dict[str, object]:
    spans = [
        {
            "start": round(span.start, 3),
            "end": round(span.end, 3),
            "classes": [
                {"class": name, "probability": round(probability, 6)}
                for name, probability in span.top(top_k)
            ],
        }
        for span in prediction.found
    ]
    return {"video": prediction.video, "spans": spans, "error": prediction.error or None}
