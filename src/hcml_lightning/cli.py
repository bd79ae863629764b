"""[arguments → **command** → what runs]

`hcml COMMAND …`: says which commands there are and hands over to one. Nothing heavy is imported before
a command is chosen, so `hcml --help` answers at once.
"""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING

from hcml_lightning._version import __version__
from hcml_lightning.tools.commands import TOOL_COMMANDS, TRAINER_COMMANDS

if TYPE_CHECKING:
    from pytorch_lightning.cli import ArgsType


def usage() -> str:
    """Return the text of `hcml --help`."""
    lines = [
        "usage: hcml COMMAND [options]     (hcml COMMAND --help says more)",
        "",
        "train and test one stage:",
    ]
    lines += [f"  {name:<12} {text}" for name, text in TRAINER_COMMANDS.items()]
    lines += ["", "tools:"]
    lines += [f"  {name:<12} {text}" for name, text in TOOL_COMMANDS.items()]
    lines += [
        "",
        "examples:",
        "  hcml fit -c configs/stages/1_flow.yaml -c configs/data/ucf101.yaml --data.root /data/ucf101",
        "  hcml progressive --run_dir runs/ucf101 -c configs/data/ucf101.yaml --data.root /data/ucf101",
    ]
    return "\n".join(lines)


def main(args: "ArgsType" = None) -> int:
    """Run one command, as the shell does or in-process.

    Args:
        args: the words after `hcml`, from the shell if None. A dict or Namespace goes to LightningCLI as it is.

    Returns:
        Exit status; 0 means that the command did its work.

    Raises:
        SystemExit: for `--help`; with status 2 for arguments that make no sense; with status 130 where the shell's
            command is interrupted (Ctrl-C), 141 where nobody reads its output any more; with a message for expected
            trouble, unless `--debug` is among the words or HCML_DEBUG is set, which let every exception through as it
            is.
    """
    if args is not None and not isinstance(args, list):
        _train(args)
        return 0
    # A name of a file that is no UTF-8 must not end a run when it is printed.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if args is None else [str(word) for word in args]
    with _debugging("--debug" in words) as debug:
        words = [word for word in words if word != "--debug"]
        try:
            status = _run(words[0] if words else "--help", words)
            # What nobody reads any more is noticed here, and not while Python ends.
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if debug or args is not None or not _nobody_reads():
                raise
            print(f"{' '.join(['hcml', *words[:1]])}: nobody reads on, stopped", file=sys.stderr)
            raise SystemExit(128 + signal.SIGPIPE) from None
        except KeyboardInterrupt as stopped:
            # Who calls this in a notebook or a script has interrupted that too.
            if debug or args is not None:
                raise
            print(f"hcml {words[0]}: interrupted", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from stopped
        except Exception as error:
            # Only what is expected becomes a message; a bug keeps its traceback.
            from hcml_lightning.tools.trouble import explain

            message = None if debug else explain(error)
            if message is None:
                raise
            raise SystemExit(f"hcml {words[0]}: {message}") from error


def _nobody_reads() -> bool:
    """Whether it is the standard output that is closed at its other end; then nothing more is written to it."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if closed := any(event & select.POLLERR for _, event in output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _train(args: "ArgsType") -> None:
    # Late: the other commands need no Lightning.
    from hcml_lightning.tools.training import train

    train(args)


def _run(command: str, words: list[str]) -> int:
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(f"hcml_lightning {__version__}")
    elif command in TRAINER_COMMANDS:
        _train(words)
    elif command in TOOL_COMMANDS:
        return int(import_module(f"hcml_lightning.tools.{command}").main(words[1:]))
    else:
        close = get_close_matches(command, [*TRAINER_COMMANDS, *TOOL_COMMANDS], 1)
        guess = f"; did you mean '{close[0]}'?" if close else ""
        print(usage(), file=sys.stderr)
        print(f"\nhcml: no command '{command}'{guess}", file=sys.stderr)
        raise SystemExit(2)
    return 0


@contextmanager
def _debugging(asked: bool) -> Iterator[bool]:
    """Say whether every traceback is wanted; processes that are started inside the block know it too."""
    if asked and not os.environ.get("HCML_DEBUG"):
        os.environ["HCML_DEBUG"] = "1"
        try:
            yield True
        finally:
            del os.environ["HCML_DEBUG"]
    else:
        yield bool(os.environ.get("HCML_DEBUG"))
