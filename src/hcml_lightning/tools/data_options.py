"""[words of the command line → **data module** → what runs]

The tools for data take the same words as `hcml fit`: configs, of which only the part about data counts, and options.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tools.configs import inline, read_config, split_words
from hcml_lightning.tools.parser import in_short


class DataParser(ArgumentParser):
    """A parser whose errors are the error, without the usage before it."""

    # What of configs counts.
    taken: tuple[str, ...] = ("data",)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog}: error: {in_short(message, self)}\n")
        raise SystemExit(2)

    def read(self, words: Sequence[str]) -> tuple[VideoDataModule, Namespace]:
        """Build the data module, and give the options of the tool.

        With a task among the options, the configs' part about the model counts too, and the task is built.

        Raises:
            SystemExit: with status 2 if the words make no sense, or the dataset is not there.
        """
        if {"-h", "--help"} & set(words):
            self.parse_args(["--help"])
        try:
            configs, rest = split_words(words)
            contents = [read_config(config) for config in configs]
            given = [f"--{k}={_word(c[k])}" for c in contents for k in self.taken if c.get(k)]
            options = self.instantiate(self.parse_args([*given, *rest]))
            data = options.data
        except (ValueError, FileNotFoundError) as error:
            self.error(str(error.__cause__ or error))
        if data is None:
            self.error("which data? Name a config with -c, or a class with --data")
        return data, options


def data_parser(name: str, description: str) -> DataParser:
    """Make a parser of `-c CONFIG`, `--data.NAME VALUE` and the options that the tool adds.

    Args:
        name: of the tool, for messages.
        description: what it does.
    """
    parser = DataParser(prog=f"hcml data {name}", description=description)
    parser.add_argument("-c", "--config", help="config of data, as for `hcml fit`; repeatable")
    parser.add_subclass_arguments(VideoDataModule, "data", required=False)
    return parser


def _word(section: Mapping[str, Any] | str) -> str:
    """What a config says of data or model as one word: the name of a class, or settings."""
    return section if isinstance(section, str) else inline(section)
