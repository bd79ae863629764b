"""Messages for bad input: `python benchmarks/bad_inputs.py` writes them to docs/bad_inputs.md.

Every case runs in this process as it would from the shell, and its message is written without the names of folders. If
a case ends in a traceback, the script reports it and exits with status 1.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bad_cases import KINDS, Case, cases
from bad_ground import Ground

from hcml_lightning.cli import main as hcml

PAGE = Path(__file__).parents[1] / "docs" / "bad_inputs.md"
# Every message that tells the user what to do next contains one of these.
NEXT = re.compile(
    r"expected|did you mean|must|needs|required|invalid choice|there are|at least|one of|hcml \w|--\w|"
    r"\b(add|allow|check|choose|delete|download|fetch|fix|leave|look|lower|move|name|pass|put|raise|remove|rename|run|"
    r"save|set|use|wait)\b",
    re.IGNORECASE,
)
LONGEST = 420
HEAD = """# What the program says about bad input

`python benchmarks/bad_inputs.py` writes this page from the running program. A test fails if the page is out of date, if
a message has no next step, or if a case ends in a traceback. `DIR` stands for a folder and `⏎` for a line break; the
name of the command, with which each message begins in the terminal, is left out.

A traceback is a bug: please report it.
"""


class Answer(NamedTuple):
    """The outcome of a case.

    Attributes:
        case: the case.
        status: exit status; None if the case raised an exception.
        said: the last message, without the command before it and the names of folders.
    """

    case: Case
    status: int | None
    said: str

    @property
    def fault(self) -> str:
        """What is wrong with the answer; an empty string if nothing is."""
        if self.status is None:
            return "a traceback"
        if self.status == 0:
            return "it was accepted"
        return "" if NEXT.search(self.said) else "no next step"


def ask(case: Case, folder: Path) -> Answer:
    """Run a case and return its exit status and message."""
    output, errors = io.StringIO(), io.StringIO()
    status: int | None
    told = ""
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            status = hcml(case.words())
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else 1
            told = stopped.code if isinstance(stopped.code, str) else ""
        except Exception as error:
            status, told = None, f"{type(error).__name__}: {error}"
    said = told or _last(errors.getvalue()) or output.getvalue()
    return Answer(case, status, re.sub(r"^hcml[\w ]*: (error: )?", "", normalised(said, folder)))


def _last(text: str) -> str:
    """Return the error itself, without usage, progress and general hints."""
    kept = [
        line
        for line in text.splitlines()
        if not re.match(r"usage:|Options: `|\s{6,}|predict:", line)
    ]
    found = [i for i, line in enumerate(kept) if re.match(r"hcml[\w ]*:", line)]
    return "\n".join(kept[found[-1] :] if found else kept).strip()


def normalised(text: str, folder: Path) -> str:
    """Remove what differs between machines from a message, and mark its line breaks."""
    text = text.replace(str(folder), "DIR").replace(os.getcwd(), "DIR")
    text = re.sub(r"one of the package's: .*", "one of the package's: …", text)
    text = re.sub(r"Available names are: .*", "Available names are: …", text)
    # Python 3.12 no longer quotes the choices.
    text = re.sub(r"\(choose from ([^)]*)\)", lambda m: m[0].replace("'", ""), text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x…", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = " ⏎ ".join(line for line in lines if line)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def page(answers: Sequence[Answer]) -> str:
    """Return the text of docs/bad_inputs.md."""
    lines = [HEAD]
    for kind in KINDS:
        lines += [
            f"\n## {kind.capitalize()}\n",
            "| what is wrong | what the program says |",
            "|---|---|",
        ]
        for answer in answers:
            if answer.case.kind == kind:
                said = answer.said.replace("|", "\\|").replace("`", "'")
                lines.append(f"| {answer.case.what} | `{said}` |")
    return "\n".join([*lines, f"\n{len(answers)} cases.\n"])


def run(folder: Path, kinds: Sequence[str] = KINDS) -> list[Answer]:
    """Make the files of the cases, and run all cases of some kinds."""
    ground = Ground(folder)
    return [ask(case, folder) for case in cases(ground) if case.kind in kinds]


def main() -> int:
    """Write the page; return 1 if any answer has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--show", action="store_true", help="print instead of writing the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        answers = []
        folder = Path(name).resolve()
        ground = Ground(folder)
        for case in cases(ground):
            if case.kind in options.kinds:
                start = time.process_time()
                answers.append(ask(case, folder))
                if options.show or answers[-1].fault:
                    seconds = time.process_time() - start
                    print(
                        f"{answers[-1].fault or 'ok'} | {seconds:.1f} s | {case.kind}: {case.what}"
                    )
                    print(f"    {answers[-1].said}", flush=True)
    if not options.show:
        PAGE.write_text(page(answers), encoding="utf-8")
    return int(any(answer.fault for answer in answers))


if __name__ == "__main__":
    sys.exit(main())
