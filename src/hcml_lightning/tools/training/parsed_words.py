"""[words of the command line → parser → **settings, nothing built**]

Parses words as `hcml fit` would, but runs nothing: to find mistakes before a run and to list the options.
"""

from typing import NoReturn

from jsonargparse import Namespace

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.training.motion_cli import MotionCLI
from hcml_lightning.tools.training.parser import HcmlParser, in_short, option_names
from hcml_lightning.tools.training.settings import check_named


class _RaisingParser(HcmlParser):
    """A parser that raises its errors, so that the caller can add which stage they are about."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ValueError with the short message."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ValueError(in_short(message, self)) from ex


class ParsedWords(MotionCLI):
    """The command line of `hcml fit`, parsed but not instantiated.

    Args:
        words: the words of the command line, without the command.

    Raises:
        ValueError: if the words are invalid.
    """

    PARSER = _RaisingParser

    def __init__(self, words: list[str]) -> None:
        with quiet():
            super().__init__(words, run=False)

    def _set_seed(self) -> None:
        """Set no seed, because nothing runs."""

    def before_instantiate_classes(self) -> None:
        """Skip the checks and choices of a run."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Do nothing, because there is no trainer."""

    def try_constructors(self) -> VideoDataModule:
        """Build data and task, because their constructors check what the parser cannot.

        Returns:
            The data module.

        Raises:
            ValueError: if one of them refuses its arguments, or the data has too few classes for the task.
            FileNotFoundError: if the data is missing.
        """
        check_named(self.config)
        parts = Namespace(  # type: ignore[no-untyped-call]
            data=self.config.data, model=self.config.model
        )
        with quiet():
            try:
                built: VideoDataModule = self.parser.instantiate(parts).data
            except (ValueError, FileNotFoundError) as error:
                # jsonargparse wraps the error of a constructor in one that lists the classes it tried.
                raise error.__cause__ or error from None
        return built


def all_options() -> set[str]:
    """Return the long options of `hcml fit`, including those of all tasks and data modules."""
    parser = ParsedWords(["-c", "stages/baseline.yaml", "-c", "data/ucf101.yaml"]).parser
    return {f"--{name}" for name in option_names(parser) if not name.endswith(("+", ".help"))}
