"""[words of the command line → **parser** → settings]

A jsonargparse parser with short error messages: the option, the given value, what it accepts, and the nearest name.
"""

import inspect
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger

from hcml_lightning.data import VideoDataModule
from hcml_lightning.tasks import MotionTask

# The keys that hold a class, each with the base class of those it accepts.
BASES: dict[str, type] = {
    "model": MotionTask,
    "data": VideoDataModule,
    "trainer.logger": Logger,
    "trainer.callbacks": pl.Callback,
}
MISSING = {
    "model": "a stage: -c configs/stages/1_flow.yaml",
    "data": "the data: -c configs/data/ucf101.yaml",
}
KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'tuple'>": "a list such as [0, 1]",
    "<class 'list'>": "a list such as [0, 1]",
    "<class 'NoneType'>": "null",
}


class HcmlParser(LightningArgumentParser):
    """A parser that prints short error messages, without a hundred lines of usage before them."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", self)
        sys.stderr.write(f"{_command(parser)}: error: {in_short(message, parser)}\n")
        sys.stderr.write(
            "Options: `hcml fit --help`; options of a class: `hcml fit --model.help ContrastTask`.\n"
        )
        self.exit(2)

    def format_help(self, *args: Any) -> str:
        """Return the help text, in which jsonargparse would call a command `hcml [options] fit`."""
        self.prog = _command(self)
        return str(super().format_help(*args))


def in_short(message: str, parser: ArgumentParser) -> str:
    """Shorten an error message of jsonargparse to a line or two, with the nearest name if one was mistyped.

    Args:
        message: the message of jsonargparse.
        parser: the parser of the command.

    Returns:
        The short message, or the given one if it is of a kind that is not known here.
    """
    key = _first(r'Parser key "([^"]+)"', message) or ""
    if words := _first(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        return _unknown_option(words.split()[0], parser)
    if name := _first(r"does not accept option '([^']+)'", message):
        guess = nearest(name.replace(".init_args", ""), option_names(parser))
        return f"unknown option '{name}' in a config{guess}"
    if name := _first(r"Option '([^']+)' is not accepted", message):
        cls = _class(_first(r"Problem with given class_path '([^']+)'", message) or "")
        names = parameters(cls) if cls is not None else []
        title = cls.__name__ if cls is not None else key
        if not title:
            guess = nearest(name.replace(".init_args", ""), option_names(parser))
            return f"unknown option '{name}' in a config{guess}"
        return f"{title} has no option '{name}'{nearest(name, names)}"
    if missing := _first(r"arguments are required: (?:\w+\.)?(model|data)", message):
        return f"--{missing} is missing; pass {MISSING[missing]}"
    # jsonargparse takes settings without a class for those of the base class, which cannot be run.
    base = _first(r"class_path='hcml_lightning\.(?:\w+\.)*(\w+)'", message)
    if key in MISSING and base == BASES[key].__name__:
        return f"--{key} is missing; pass {MISSING[key]}"
    if missing := _first(r"arguments are required: (.*)", message):
        place = f"--{key}." if key else "--"
        options = [place + name for name in missing.split(", ")]
        purpose = " with the folder of the dataset" if options == ["--data.root"] else ""
        return f"{', '.join(options)} is missing; pass it{purpose}"
    return _wrong_class(key, message) or _wrong_value(key, message) or message.strip()


def _wrong_class(key: str, message: str) -> str | None:
    """Return the message for a class that does not exist or is of the wrong kind; None for any other error."""
    unknown = _first(r"Expected a dot import path string: (\S+)", message)
    unknown = unknown or _first(r"class_path '([^']+)':\s+(?:module|No module|Unable)", message)
    if key not in BASES:
        return None
    found = {cls for cls in subclasses(BASES[key]) if not inspect.isabstract(cls)} - {BASES[key]}
    names = [cls.__name__ for cls in found if not cls.__name__.startswith("_")]
    if unknown:
        return f"--{key}: unknown class '{unknown}'{nearest(unknown.rpartition('.')[2], names)}"
    if re.search(r"does not correspond to a subclass|Not a valid subclass|is abstract", message):
        given = _first(r"Import path (\S+) does not", message)
        given = given or _first(r"Given value: (.*)", message)
        own = sorted(cls.__name__ for cls in found if cls.__module__.startswith("hcml_lightning."))
        kinds = ", ".join(own or [BASES[key].__name__])
        return f"--{key}: expected a class: {kinds} or a subclass, got '{given}'"
    return None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint: the name that was probably meant, or else all names if they are few.

    Example:
        >>> nearest("temprature", ["temperature", "lr"])
        "; did you mean 'temperature'?"
        >>> nearest("zetta", ["temperature", "lr"])
        '; choose from lr, temperature'
    """
    names = sorted(set(names))
    if close := get_close_matches(name, names, 1, 0.6):
        return f"; did you mean '{close[0]}'?"
    return f"; choose from {', '.join(names)}" if 0 < len(names) <= MOST_NAMES else ""


# A list of this many names still fits into a few lines.
MOST_NAMES = 30


def parameters(cls: type) -> list[str]:
    """Return the names of a constructor's arguments, including those that it passes on to its bases."""
    arguments = inspect.signature(cls).parameters.values()
    return [a.name for a in arguments if a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]


def subclasses(base: type) -> set[type]:
    """Return a class and all of its subclasses that have been imported."""
    below: list[type] = base.__subclasses__()
    return {base}.union(*(subclasses(cls) for cls in below))


def _unknown_option(word: str, parser: ArgumentParser) -> str:
    name = word.partition("=")[0].lstrip("-")
    names = {f"--{known}" for known in option_names(parser)}
    # Most often the last part of the name is right and a part before it is wrong.
    same = {known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]}
    dashes = "" if word.startswith("--") else "; options begin with two dashes"
    guess = f"; did you mean '{same.pop()}'?" if len(same) == 1 else nearest(f"--{name}", names)
    return f"unknown option '{word}'{dashes}{guess}"


def option_names(parser: ArgumentParser) -> list[str]:
    """Return the names of all long options, without dashes, including those of all tasks and data modules."""
    names = [
        string[2:]
        for action in parser._actions
        for string in action.option_strings
        if string.startswith("--")
    ]
    for key in ("model", "data"):
        for cls in subclasses(BASES[key]):
            names += [f"{key}.{name}" for name in parameters(cls)]
    return names


def _wrong_value(key: str, message: str) -> str | None:
    """Return the message for a wrong value of the innermost key in `message`; None for any other error."""
    *_, last = re.split(r'Parser key "', message)
    name = last.partition('"')[0]
    tried = last.partition("Given value type")[0] if "Got value" not in last else last
    kinds = re.findall(r"Expected an? (.+?)(?=\. Got value|$)", tried, re.MULTILINE)
    value = _first(r"(?:Got|Given) value: (.*)", last)
    if not key or not kinds or value is None:
        return None
    if "Got value" in last:
        kinds = kinds[:1]
    path = name if name.startswith(key) else f"{key}.{name}"
    return f"--{path}: expected {_in_words(kinds)}, got '{value}'{_nearest_literal(value, kinds)}"


def _in_words(kinds: list[str]) -> str:
    words = [
        word
        for kind in kinds
        for word in _literals(kind) or [KINDS.get(kind, f"a {kind}".replace("tuple", "list"))]
    ]
    words = list(dict.fromkeys(words))
    return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"


def _command(parser: ArgumentParser) -> str:
    return parser.prog.replace(" [options]", "")


def _literals(kind: str) -> list[str]:
    inside = _first(r"typing\.Literal\[(.*)\]", kind)
    return [part.strip().strip("'") for part in inside.split(",")] if inside else []


def _nearest_literal(value: str, kinds: list[str]) -> str:
    known = [literal for kind in kinds for literal in _literals(kind)]
    close = get_close_matches(value, known, 1, 0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _class(path: str) -> type | None:
    found = (cls for base in BASES.values() for cls in subclasses(base))
    name = path.rpartition(".")[2]
    return next((cls for cls in found if cls.__name__ == name), None)


def _first(pattern: str, text: str, flags: int = 0) -> Any:
    found = re.search(pattern, text, flags)
    return found[1] if found else None
