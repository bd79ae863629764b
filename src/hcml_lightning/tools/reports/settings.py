"""[configs of several runs → **what differs between them** → report]

Which settings of comparable stages are not the same: what a page about several runs is opened for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hcml_lightning.tools.reports.stage_runs import StageRun
from hcml_lightning.tools.stages import STAGE_NAMES
from hcml_lightning.tools.training.configs import flatten

# Where a run reads and writes differs between any two.
PLACES = (
    "ckpt_path",
    "checkpoint.dirpath",
    "model.init_from",
    "trainer.default_root_dir",
    "trainer.logger",
)


class Difference(NamedTuple):
    """Settings that differ between runs of the same stage.

    Attributes:
        stage: name of the stage, or of the task of runs that `hcml fit` has numbered.
        runs: names of the runs.
        rows: name of each setting, and its value in each run; None if a run has no such setting.
    """

    stage: str
    runs: list[str]
    rows: list[tuple[str, list[Any]]]


def differences(stages: Sequence[StageRun]) -> list[Difference]:
    """Compare the settings of all runs of the same stage; stages with a single run, or equal ones, are left out."""
    same: dict[str, list[StageRun]] = {}
    for stage in stages:
        if stage.config:
            key = stage.name if stage.name in STAGE_NAMES else stage.task
            same.setdefault(key, []).append(stage)
    found = []
    for key, members in same.items():
        settings = [flatten(stage.settings) for stage in members]
        names = (n for n in sorted(set().union(*settings)) if not n.startswith(PLACES))
        every = [(name, [flat.get(name) for flat in settings]) for name in names]
        rows = [(name, values) for name, values in every if values.count(values[0]) < len(values)]
        if rows:
            runs = [f"{s.group} / {s.name}" if s.group else s.name for s in members]
            found.append(Difference(key, runs, rows))
    return found
