"""[predictions → **what is taken for what** → report, loggers]

Confusions of classes, their accuracies, and the mistakes that were made with the most confidence.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hcml_lightning.tools.video_results import VideoResult


class Cell(NamedTuple):
    """How many videos of one class were taken for another.

    Attributes:
        row: number of the true class.
        column: number of the predicted class.
        videos: how many.
        share: of the videos of the true class.
    """

    row: int
    column: int
    videos: int
    share: float


class Confusion(NamedTuple):
    """What a test took for what.

    Attributes:
        classes: names, sorted.
        totals: tested videos of each class.
        cells: of the matrix, those that are not empty.
        mistakes: wrong predictions, the most confident first.
    """

    classes: list[str]
    totals: list[int]
    cells: list[Cell]
    mistakes: list[VideoResult]

    @property
    def accuracy(self) -> list[tuple[str, float, int]]:
        """Name, accuracy and number of videos of each class that was tested, the worst first."""
        right = {cell.row: cell.share for cell in self.cells if cell.row == cell.column}
        rows = [
            (name, right.get(i, 0.0), total)
            for i, (name, total) in enumerate(zip(self.classes, self.totals, strict=True))
            if total
        ]
        return sorted(rows, key=lambda row: (row[1], row[0]))

    @property
    def pairs(self) -> list[tuple[str, str, int, float]]:
        """True class, predicted class, number and share of the confusions, the most frequent first."""
        wrong = sorted(
            (cell for cell in self.cells if cell.row != cell.column),
            key=lambda cell: (-cell.videos, -cell.share, cell.row, cell.column),
        )
        return [(self.classes[c.row], self.classes[c.column], c.videos, c.share) for c in wrong]


def confusion(videos: Sequence[VideoResult]) -> Confusion:
    """Count what was taken for what, among videos whose class is known.

    Example:
        >>> table = confusion([VideoResult("a", "run", "run", 0.9), VideoResult("b", "run", "walk", 0.6)])
        >>> table.accuracy, table.pairs
        ([('run', 0.5, 2)], [('run', 'walk', 1, 0.5)])
    """
    known = [video for video in videos if video.label]
    classes = sorted({name for video in known for name in (video.label, video.predicted)})
    place = {name: i for i, name in enumerate(classes)}
    totals = Counter(place[video.label] for video in known)
    counts = Counter((place[video.label], place[video.predicted]) for video in known)
    cells = [
        Cell(row, column, count, count / totals[row])
        for (row, column), count in sorted(counts.items())
    ]
    mistakes = sorted(
        (video for video in known if video.label != video.predicted),
        key=lambda video: (-video.probability, video.video_id),
    )
    return Confusion(classes, [totals[i] for i in range(len(classes))], cells, mistakes)
