"""[checkout → **commit** → record of a run]

Which code it was that made some numbers.
"""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def commit(*parts: str) -> str | None:
    """Name the commit of the checkout that this package runs from.

    Args:
        parts: folders and files of it that count.

    Returns:
        Its short hash, with a + where one of the parts has changed since; None where the package is installed without
        its history.
    """
    # An installed package may lie inside of somebody else's repository.
    if not (REPOSITORY / ".git").exists():
        return None
    head = _git("rev-parse", "--short", "HEAD")
    return head and head + "+" * bool(_git("status", "--short", "--", *parts))


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
