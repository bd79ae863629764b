"""[end of a stage → **done.json** → the stages after it]"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from hcml_lightning.storage import checkpoint_near


class Done(NamedTuple):
    """A stage that has ended, as `done.json` in its folder holds it.

    Attributes:
        stage: name.
        checkpoint: weights after its last epoch; those that were tested, for the test.
        checkpoint_sha256: of that file.
        epochs: how many it trained.
        seconds: wall time, over all starts.
        metrics: numbers of its last epoch.
        settings: what its result depends on.
    """

    stage: str
    checkpoint: str
    checkpoint_sha256: str
    epochs: int
    seconds: float
    metrics: dict[str, float]
    settings: dict[str, Any]


def done_before(folder: Path) -> Done | None:
    """Read the record of a stage that has ended in a folder, if one has; its checkpoint is where it is now."""
    path = folder / "done.json"
    if not path.is_file():
        return None
    record = Done(**json.loads(path.read_text()))
    found = checkpoint_near(folder, Path(record.checkpoint))
    return record if found is None else record._replace(checkpoint=str(found.absolute()))
