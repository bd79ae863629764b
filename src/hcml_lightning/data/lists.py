"""[**list of a dataset → its lines** → records → batch → model → loss → metric]

Read lists that may come from strangers: their content may not be text, may be far too long, or may lead out of the
folder that they describe. Every error names the file, and no name from a list is looked up outside of that folder.
"""

import csv
import io
import json
import os
import re
import stat
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

# Bytes; the longest official list, of Kinetics-700, has 35 MB.
LARGEST_LIST = 2**29
# Characters; names of classes and of videos are far shorter.
LONGEST_LINE = 2**14
# Bytes; the limit for one name in the file systems of Linux.
LONGEST_NAME = 255


def read_text(path: Path) -> str:
    """Return the text of a list in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: if the file is not regular, too large, or not such text; the message names the line if possible.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: is not a regular file; put the list itself there")
    if found.st_size > LARGEST_LIST:
        raise ValueError(
            f"{path}: has {found.st_size} bytes, but a list of videos has at most {LARGEST_LIST}; check that it is the "
            "list"
        )
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}: is UTF-16; save it as UTF-8 with: iconv -f UTF-16 -t UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the byte {content[error.start]:#x} is not valid UTF-8; save the list as UTF-8, "
            "from Latin-1 with: iconv -f LATIN1 -t UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path}, line {line}: contains a NUL byte, so the list is damaged; download it again"
        )
    return text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list without line ends (LF, CRLF or CR) and without empty lines.

    Raises:
        ValueError: if the file is not text, or a line is too long for a list.
    """
    # Not splitlines(), which also splits at rarer characters that may occur in names.
    lines = re.split("\r\n|\r|\n", read_text(path))
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{path}, line {number}: has {len(line)} characters; expected one video per line, so check that it is "
                "the list"
            )
    return [line.strip() for line in lines if line.strip()]


def read_json(path: Path, expected: type[Any]) -> Any:
    """Return the content of a JSON list.

    Raises:
        ValueError: if the file is not JSON, or its content is not of the expected type.
    """
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        said = "too many nested brackets" if deep else str(error)
        raise ValueError(f"{path}: is not valid JSON ({said}); download the list again") from error
    if not isinstance(content, expected):
        kind = "a mapping {...}" if expected is dict else "a list [...]"
        raise ValueError(
            f"{path}: expected {kind} at the top level, got {type(content).__name__}; download the list again"
        )
    return content


def read_table(path: Path, columns: set[str]) -> list[dict[str, str]]:
    """Return the rows of a csv list, keyed by the column names in its first line.

    Raises:
        ValueError: if the file is not csv, a column is missing, or a row is too short.
    """
    text = "\n".join(read_lines(path))
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = columns - set(lines.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path}: missing columns: {', '.join(sorted(missing))}; expected a first line that names them, as in "
                "the official list"
            )
        rows = []
        for row in lines:
            if any(row[name] is None for name in columns):
                raise ValueError(
                    f"{path}, line {lines.line_num}: is too short, perhaps cut off; download the list again"
                )
            rows.append(row)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {lines.line_num}: is not valid CSV ({error}); look for a quotation mark that is never closed"
        ) from error
    return rows


def check_names(root: str, names: list[str]) -> None:
    """Check the names of classes.

    Raises:
        ValueError: if a name is invalid or occurs twice.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"root={root}: the class {name!r} appears {count} times in the class list; use a different name for "
                "each class"
            )
        if not name.strip() or "\0" in name or not _is_encodable(name):
            raise ValueError(
                f"root={root}: {name!r} in the class list is not a valid name; download the list again"
            )


def what_is_wrong_with(name: str) -> str:
    """Return why a name in a list cannot be that of a video below the folder of the dataset; empty if it can.

    Example:
        >>> what_is_wrong_with("Surfing/v_1.avi"), what_is_wrong_with("")
        ('', 'is empty; expected the name of a video')
    """
    path = PurePosixPath(name)
    if not name.strip() or not path.parts:
        return "is empty; expected the name of a video"
    if "\0" in name:
        return "contains a NUL character; download the list again"
    if path.is_absolute() or ".." in path.parts:
        return "points outside the dataset folder; to use a video from elsewhere, link it into that folder"
    if not _is_encodable(name):
        return "contains half of a character; download the list again"
    longest = max(len(os.fsencode(part)) for part in path.parts)
    return "is too long for a file name; download the list again" if longest > LONGEST_NAME else ""


def _is_encodable(name: str) -> bool:
    """Return whether a name can be that of a file: JSON can contain halves of characters (lone surrogates)."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
