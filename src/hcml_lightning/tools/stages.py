"""[**names and recipes of stages** → words of each → stages]

Names, recipes and order of the stages that `hcml progressive` runs.
"""

from typing import NamedTuple


class Stage(NamedTuple):
    """One step of a run.

    Attributes:
        name: name of the stage, of its folder, and of its own part of configs and options.
        config: its recipe, among the configs of the package.
        inherits: stages whose part of configs and options holds here too, but is overridden by its own.
        from_scratch: whether it learns from labels alone and from random weights, even if other stages ran before it.
    """

    name: str
    config: str
    inherits: tuple[str, ...] = ()
    from_scratch: bool = False

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the parts that hold for this stage; later ones take precedence."""
        return (*self.inherits, self.name)


TRAINING = {
    stage.name: stage
    for stage in (
        Stage("flow", "stages/1_flow.yaml"),
        Stage("contrast1", "stages/2_contrast_level1.yaml"),
        Stage("contrast2", "stages/3_contrast_level2.yaml"),
        Stage("recognition", "stages/4_recognition.yaml"),
        # The two stages that the method is compared with differ from `recognition` in their recipe alone.
        Stage("baseline", "stages/baseline.yaml", ("recognition",), from_scratch=True),
        Stage("motion_only", "stages/motion_only.yaml", ("recognition",), from_scratch=True),
        # Evaluates the features of the stage before it.
        Stage("probe", "stages/probe.yaml"),
    )
}
STAGE_NAMES = (*TRAINING, "test")
PAPER = ("flow", "contrast1", "contrast2", "recognition", "test")


def test_of(stage: Stage) -> Stage:
    """Return the test of a stage: its recipe, and below its own settings those of the stage."""
    return Stage("test", stage.config, stage.sections)


def rank(name: str) -> int:
    """Return the position of a stage in the order of all stages; any other name comes last."""
    return STAGE_NAMES.index(name) if name in STAGE_NAMES else len(STAGE_NAMES)
