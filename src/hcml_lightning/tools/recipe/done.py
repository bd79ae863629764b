"""[end of a stage → **done.json** → the stages after it]"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from hcml_lightning.tools.run.layout import checkpoint_near


class Done(NamedTuple):
    """The record of a finished stage, as saved in `done.json` in its folder.

    Attributes:
        stage: name.
        checkpoint: path of the weights after its last epoch; for the test, of the weights that were tested.
        checkpoint_sha256: of that file.
        epochs: number of epochs trained.
        seconds: wall time over all starts, including the start of Python and the listing of the data.
        metrics: numbers of its last epoch.
        settings: the settings that its result depends on.
    """

    stage: str
    checkpoint: str
    checkpoint_sha256: str
    epochs: int
    seconds: float
    metrics: dict[str, float]
    settings: dict[str, Any]


def done_before(folder: Path) -> Done | None:
    """Read the record of the stage finished in a folder, with its checkpoint's present path; None if there is none."""
    path = folder / "done.json"
    if not path.is_file():
        return None
    record = Done(**json.loads(path.read_text()))
    found = checkpoint_near(folder, Path(record.checkpoint))
    return record if found is None else record._replace(checkpoint=str(found.absolute()))
