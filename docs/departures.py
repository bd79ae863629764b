"""[comments in code and configs → **page of departures**]

Every `# Departure:` and `# Unstated in the paper:` of the code, with its place.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARKS = {
    "Departure": "Where we depart from the paper",
    "Unstated in the paper": "Where the paper is silent",
}
FOLDERS = ("src/hcml_lightning", "configs")
_START = re.compile(rf"\s*# ({'|'.join(MARKS)}): (.*)")
_MORE = re.compile(r"\s*# (.*)")


class Remark(NamedTuple):
    """One comment.

    Attributes:
        kind: of `MARKS`.
        file: from the root of the repository.
        line: of its first line, counted from 1.
        text: without marks and line ends.
    """

    kind: str
    file: str
    line: int
    text: str


def remarks(repository: Path) -> Iterator[Remark]:
    """Find all of them, in the order of files and lines."""
    for folder in FOLDERS:
        for path in sorted((repository / folder).rglob("*")):
            inside_link = (repository / "src/hcml_lightning/configs") in path.parents
            if path.suffix in (".py", ".yaml") and not inside_link:
                file = path.relative_to(repository).as_posix()
                yield from remarks_of(path.read_text(encoding="utf-8"), file)


def remarks_of(text: str, file: str) -> Iterator[Remark]:
    """Find those of one file."""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if start := _START.fullmatch(line):
            parts = [start[2]]
            for following in lines[number:]:
                more = _MORE.fullmatch(following)
                if more is None or _START.fullmatch(following):
                    break
                parts.append(more[1])
            words = " ".join(parts)
            # As a sentence, but a Greek letter stays the symbol that it is.
            first = words[:1].upper() if words[:1].isascii() else words[:1]
            yield Remark(start[1], file, number, first + words[1:])


def write_departures(repository: Path, page: Path) -> None:
    """Write the page."""
    found = list(remarks(repository))
    parts = [
        "# Departures from the paper\n",
        f"Written from {len(found)} comments in the code when these pages are built; "
        "`grep -rn '# Departure:\\|# Unstated in the paper:' src configs` lists the same.\n",
    ]
    for kind, title in MARKS.items():
        parts.append(f"## {title}\n")
        parts += [
            f"`{remark.file}:{remark.line}`\n: {remark.text}\n"
            for remark in found
            if remark.kind == kind
        ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")
