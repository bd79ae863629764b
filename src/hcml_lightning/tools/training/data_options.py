"""[words of the command line → **data module** → what runs]

The tools for data take the same words as `hcml fit`: options and configs, of which only the section `data` is used
(and `model`, if the tool needs it).
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tools.console.output import HelpFormatter
from hcml_lightning.tools.training.configs import inline, read_config, split_words
from hcml_lightning.tools.training.parser import MISSING, in_short


class DataParser(ArgumentParser):
    """A parser that reports an error without the usage before it."""

    # Sections of the configs that are used; the others are ignored.
    taken: tuple[str, ...] = ("data",)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog}: error: {in_short(message, self)}\n")
        raise SystemExit(2)

    def read(self, words: Sequence[str]) -> tuple[VideoDataModule, Namespace]:
        """Build the data module, and return it with the options of the tool.

        If `taken` includes `model`, that section of the configs is used too, and the task is built.

        Raises:
            SystemExit: for `--help`, and with status 2 if the words are invalid or the dataset is missing.
        """
        if {"-h", "--help"} & set(words):
            self.parse_args(["--help"])
        try:
            configs, rest = split_words(words)
            contents = [read_config(config) for config in configs]
            # Settings of a model that nothing names, as in configs/tiny.yaml, are those of every stage.
            named = any(_names_class(c.get("model")) for c in contents)
            taken = [k for k in self.taken if k != "model" or named]
            given = [f"--{k}={_word(c[k])}" for c in contents for k in taken if c.get(k)]
            options = self.instantiate(self.parse_args([*given, *rest]))
            data = options.data
        except (ValueError, FileNotFoundError) as error:
            self.error(str(error.__cause__ or error))
        # From options such as `--data.root` alone, the parser makes the base class, which has no videos.
        if data is None or type(data) is VideoDataModule:
            self.error(f"--data is missing; pass {MISSING['data']}")
        return data, options


def data_parser(name: str, description: str) -> DataParser:
    """Make a parser of `-c CONFIG`, `--data.NAME VALUE` and the options that the tool adds.

    Args:
        name: of the tool, for messages.
        description: what it does.
    """
    parser = DataParser(
        prog=f"hcml data {name}", description=description, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "-c", "--config", help="config of the data, as for `hcml fit`; may be repeated"
    )
    parser.add_subclass_arguments(
        VideoDataModule,
        "data",
        required=False,
        metavar="CLASS",
        help="class of the data, such as UCF101DataModule, if no config names it; --data.root DIR and so on set its "
        "arguments",
    )
    return parser


def _names_class(section: Mapping[str, Any] | str | None) -> bool:
    return isinstance(section, str) or bool(section and "class_path" in section)


def _word(section: Mapping[str, Any] | str) -> str:
    """Return a section of a config as one word: the name of a class, or an inline mapping."""
    return section if isinstance(section, str) else inline(section)
