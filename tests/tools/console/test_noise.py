import subprocess
import sys

# Lightning replaces `warnings.formatwarning` when it is imported, which is after the command line has started.
SCRIPT = """
import warnings
from hcml_lightning import cli

def run(*_):
    warnings.formatwarning = lambda message, category, filename, *_: f"{filename}: {message}\\n"
    for place in (cli.__file__, "/lib/other.py"):
        warnings.warn_explicit("text", UserWarning, place, 7)
    return 0

cli._run = run
cli.main(*ARGUMENTS)
"""


def shown(arguments: str) -> list[str]:
    script = SCRIPT.replace("ARGUMENTS", arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_shell_shows_warnings_of_this_package_without_their_place():
    assert shown("[]") == ["warning: text", "/lib/other.py: text"]


def test_warnings_are_left_to_the_caller_in_python():
    mine, other = shown("[[]]")
    assert mine.endswith("hcml_lightning/cli.py: text")
    assert other == "/lib/other.py: text"
