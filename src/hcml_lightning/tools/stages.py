"""[**the stages that there are** → words of each → stages]

Names, recipes and order of what `hcml progressive` runs.
"""

from typing import NamedTuple


class Stage(NamedTuple):
    """One step of a run.

    Attributes:
        name: of its folder, and of its own part of configs and options.
        config: its recipe, among the package's.
        inherits: stages whose part of configs and options holds here too, below its own.
        from_scratch: whether it learns by labels alone, from random weights, whatever stages were run before it.
    """

    name: str
    config: str
    inherits: tuple[str, ...] = ()
    from_scratch: bool = False

    @property
    def sections(self) -> tuple[str, ...]:
        """Names whose parts hold for this stage, the strongest last."""
        return (*self.inherits, self.name)


TRAINING = {
    stage.name: stage
    for stage in (
        Stage("flow", "stages/1_flow.yaml"),
        Stage("contrast1", "stages/2_contrast_level1.yaml"),
        Stage("contrast2", "stages/3_contrast_level2.yaml"),
        Stage("recognition", "stages/4_recognition.yaml"),
        # The two that the method is compared with differ from `recognition` in their recipe alone.
        Stage("baseline", "stages/baseline.yaml", ("recognition",), from_scratch=True),
        Stage("motion_only", "stages/motion_only.yaml", ("recognition",), from_scratch=True),
        # Judges the features of the stage before it.
        Stage("probe", "stages/probe.yaml"),
    )
}
STAGE_NAMES = (*TRAINING, "test")
PAPER = ("flow", "contrast1", "contrast2", "recognition", "test")


def rank(name: str) -> int:
    """Place of a stage among all; behind them that of a folder with another name."""
    return STAGE_NAMES.index(name) if name in STAGE_NAMES else len(STAGE_NAMES)
