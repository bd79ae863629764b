"""[commands and their options → **script for the shell**]

`hcml completion bash|zsh`: lets the shell complete commands, options and the names of recipes.

The script that jsonargparse would write is 60 MB large, because it spells out the options of every class that a trainer
accepts as a plugin or a callback. Here each option of the trainer, of tasks and of data is listed once.
"""

import argparse
from collections.abc import Iterable, Sequence
from importlib import import_module

from hcml_lightning.tools.commands import DATA_COMMANDS, TOOL_COMMANDS, TRAINER_COMMANDS, Tool
from hcml_lightning.tools.training.configs import CONFIGS, all_recipes

# Shell functions that complete the value of -c: names of recipes, and files.
PREAMBLE = {
    "bash": '_hcml_config() {{ compgen -W "{recipes}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_hcml_config() {{ _alternative 'recipes:recipe:({recipes})' 'files:file:_files' }}",
}

# Tools that pass on options of `hcml fit`.
PASS_ON = ("progressive", "demo")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `hcml completion`."""
    parser = argparse.ArgumentParser(
        prog="hcml completion",
        description="Print a script that lets the shell complete `hcml`. Needs shtab: pip install "
        "'hcml-lightning[completion]'.",
        epilog='bash: add eval "$(hcml completion bash)" to ~/.bashrc, or better, source a file there that holds '
        "the script. zsh: run hcml completion zsh > _hcml in a folder of $fpath.",
    )
    parser.add_argument("shell", choices=sorted(PREAMBLE))
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """Return a parser that lists the options of all commands, for shtab to read; it is not used for parsing."""
    from hcml_lightning.tools.training.parsed_words import all_options

    top = argparse.ArgumentParser(prog="hcml", add_help=False)
    for name in ("-h", "--help", "--version"):
        top.add_argument(name, action="store_true")
    commands = top.add_subparsers()
    options = all_options()
    for name, text in TRAINER_COMMANDS.items():
        _add(commands.add_parser(name, help=text), options)
    for name, tool in TOOL_COMMANDS.items():
        if name == "data":
            below = commands.add_parser(name, help=tool.purpose).add_subparsers()
            data = {option for option in options if option.startswith("--data.")}
            for word, one in DATA_COMMANDS.items():
                _add(below.add_parser(word, help=one.purpose), data | _own_options(one))
        else:
            known = options if name in PASS_ON else set()
            _add(commands.add_parser(name, help=tool.purpose), known | _own_options(tool))
    return top


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script.

    Args:
        shell: bash or zsh.
        parser: lists the options of all commands.

    Raises:
        ImportError: if shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ImportError(
            "completion needs the package shtab: pip install 'hcml-lightning[completion]'"
        ) from error
    recipes = " ".join(str(path.relative_to(CONFIGS)) for path in all_recipes())
    return str(shtab.complete(parser, shell, preamble=PREAMBLE[shell].format(recipes=recipes)))


def main(words: Sequence[str]) -> int:
    """Print the script that lets bash or zsh complete `hcml`."""
    options = make_parser().parse_args(words)
    print(script(options.shell, whole_parser()))
    return 0


def _own_options(tool: Tool) -> set[str]:
    parser = import_module(f"hcml_lightning.tools.{tool.module}").make_parser()
    strings = [string for action in parser._actions for string in action.option_strings]
    return {string for string in strings if string.startswith("--")}


def _add(parser: argparse.ArgumentParser, options: Iterable[str]) -> None:
    config = parser.add_argument("-c", "--config")
    config.complete = dict.fromkeys(PREAMBLE, "_hcml_config")  # type: ignore[attr-defined]
    for option in sorted({*options} - {"--help", "--config"}):
        # Complete every value as a path, because most values are paths; others must be typed.
        argument = parser.add_argument(option)
        argument.complete = {"bash": "_shtab_compgen_files", "zsh": "_files"}  # type: ignore[attr-defined]
