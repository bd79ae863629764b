"""[predictions → **confusion matrix** → report, loggers]

Confusions between classes, the accuracy of each class, and the wrong predictions, the most confident first.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hcml_lightning.tools.run.video_results import VideoResult


class Cell(NamedTuple):
    """A cell of the confusion matrix: the videos of one true class with one predicted class.

    Attributes:
        row: index of the true class.
        column: index of the predicted class.
        videos: number of videos.
        share: fraction of the videos of the true class.
    """

    row: int
    column: int
    videos: int
    share: float


class Confusion(NamedTuple):
    """The confusion matrix of a test.

    Attributes:
        classes: names, sorted.
        totals: number of tested videos of each class.
        cells: non-empty cells of the matrix.
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
    """Make the confusion matrix of the videos whose class is known.

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
