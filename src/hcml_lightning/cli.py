"""[arguments → **command** → what runs]

`hcml COMMAND …`: lists the commands or runs one of them. Nothing heavy is imported before a command is
chosen, so that `hcml --help` answers at once.
"""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from io import TextIOWrapper
from typing import TYPE_CHECKING

from hcml_lightning._version import __version__
from hcml_lightning.tools.commands import TOOL_COMMANDS, TRAINER_COMMANDS
from hcml_lightning.tools.console.noise import plain_warnings

if TYPE_CHECKING:
    from pytorch_lightning.cli import ArgsType


def usage() -> str:
    """Return the text of `hcml --help`."""
    lines = [
        "usage: hcml COMMAND [options]     (hcml COMMAND --help for details)",
        "",
        "train and test one stage:",
    ]
    lines += [f"  {name:<12} {text}" for name, text in TRAINER_COMMANDS.items()]
    lines += ["", "tools:"]
    lines += [f"  {name:<12} {tool.purpose}" for name, tool in TOOL_COMMANDS.items()]
    lines += [
        "",
        "examples:",
        "  hcml fit -c configs/stages/1_flow.yaml -c configs/data/ucf101.yaml --data.root /data/ucf101",
        "  hcml progressive --run_dir runs/ucf101 -c configs/data/ucf101.yaml --data.root /data/ucf101",
    ]
    return "\n".join(lines)


def main(args: "ArgsType" = None) -> int:
    """Run one command, from the shell or in-process.

    Args:
        args: the words after `hcml`, from the shell if None. A dict or Namespace is passed to LightningCLI unchanged.

    Returns:
        Exit status; 0 if the command succeeded.

    Raises:
        SystemExit: for `--help` of a command; with status 2 for invalid arguments; with a message for expected errors;
            and, if the arguments come from the shell, with status 130 for an interrupt (Ctrl-C) and 141 if the reader
            of the output has gone. With `--debug` among the words or HCML_DEBUG set, errors, interrupts and broken
            pipes are raised unchanged instead.
    """
    if args is not None and not isinstance(args, list):
        _train(args)
        return 0
    # Printing a file name that is not valid UTF-8 must not end a run.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if args is None else [str(word) for word in args]
    # In a notebook or a script, warnings are the caller's.
    shown = plain_warnings() if args is None else nullcontext()
    with shown, _debugging("--debug" in words) as debug:
        words = [word for word in words if word != "--debug"]
        try:
            status = _run(words[0] if words else "--help", words)
            # If the reader of the output has gone, raise BrokenPipeError here and not while Python exits.
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if debug or args is not None or not _nobody_reads():
                raise
            print(
                f"{' '.join(['hcml', *words[:1]])}: stopped, because the output was closed",
                file=sys.stderr,
            )
            raise SystemExit(128 + signal.SIGPIPE) from None
        except KeyboardInterrupt as stopped:
            # In a notebook or a script, the interrupt is also meant for the caller.
            if debug or args is not None:
                raise
            print(f"hcml {words[0]}: interrupted", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from stopped
        except Exception as error:
            # Only expected errors become a message; a bug keeps its traceback.
            from hcml_lightning.tools.console.trouble import explain

            message = None if debug else explain(error)
            if message is None:
                raise
            raise SystemExit(f"hcml {words[0]}: {message}") from error


def _nobody_reads() -> bool:
    """Return whether the reader of standard output has gone; if so, discard all further output."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if closed := any(event & select.POLLERR for _, event in output.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _train(args: "ArgsType") -> None:
    # Imported late, because the other commands do not need Lightning.
    from hcml_lightning.tools.training.motion_cli import train

    train(args)


def _run(command: str, words: list[str]) -> int:
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(f"hcml_lightning {__version__}")
    elif command in TRAINER_COMMANDS:
        _train(words)
    elif command in TOOL_COMMANDS:
        return TOOL_COMMANDS[command].run(words[1:])
    else:
        close = get_close_matches(command, [*TRAINER_COMMANDS, *TOOL_COMMANDS], 1)
        guess = f"did you mean '{close[0]}'?" if close else "choose one of those above"
        print(usage(), file=sys.stderr)
        print(f"\nhcml: unknown command '{command}'; {guess}", file=sys.stderr)
        raise SystemExit(2)
    return 0


@contextmanager
def _debugging(asked: bool) -> Iterator[bool]:
    """Yield whether all tracebacks are wanted; inside the block HCML_DEBUG tells started processes so too."""
    if asked and not os.environ.get("HCML_DEBUG"):
        os.environ["HCML_DEBUG"] = "1"
        try:
            yield True
        finally:
            del os.environ["HCML_DEBUG"]
    else:
        yield bool(os.environ.get("HCML_DEBUG"))
