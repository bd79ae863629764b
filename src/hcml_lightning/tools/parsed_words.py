"""[words of the command line → parser → **settings, nothing built**]

What `hcml fit` would make of words: to find a mistake before anything runs, and to know which options there are.
"""

from jsonargparse import Namespace

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tools.noise import quiet
from hcml_lightning.tools.parser import option_names
from hcml_lightning.tools.training import MotionCLI


class ParsedWords(MotionCLI):
    """Words that are parsed, and nothing built of them.

    Args:
        words: without the command.
    """

    def __init__(self, words: list[str]) -> None:
        with quiet():
            super().__init__(words, run=False)

    def _set_seed(self) -> None:
        """Leave the seed to what runs."""

    def before_instantiate_classes(self) -> None:
        """Leave it."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Leave it."""

    def try_constructors(self) -> VideoDataModule:
        """Build data and task: constructors refuse what a parser cannot know.

        Returns:
            The data.

        Raises:
            ValueError: if one of them refuses its arguments, or the data has too few classes for the task.
            FileNotFoundError: if the data is not there.
        """
        parts = Namespace(  # type: ignore[no-untyped-call]
            data=self.config.data, model=self.config.model
        )
        with quiet():
            try:
                built: VideoDataModule = self.parser.instantiate(parts).data
            except (ValueError, FileNotFoundError) as error:
                # jsonargparse wraps it in a list of the classes that it tried.
                raise error.__cause__ or error from None
        return built


def all_options() -> set[str]:
    """Return the long options of `hcml fit`, those of every task and all data among them."""
    parser = ParsedWords(["-c", "stages/baseline.yaml", "-c", "data/ucf101.yaml"]).parser
    return {f"--{name}" for name in option_names(parser) if not name.endswith(("+", ".help"))}
