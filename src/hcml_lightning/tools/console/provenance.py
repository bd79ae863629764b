"""[checkout → **commit** → record of a run]

The commit of the code that produced a result.
"""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[4]


def commit(*parts: str) -> str | None:
    """Return the commit of the checkout that this package runs from.

    Args:
        parts: folders and files of the checkout in which changes are looked for.

    Returns:
        Its short hash, followed by a + if one of the parts has uncommitted changes; None if the package is installed
        without its history.
    """
    # An installed package may lie inside another repository, whose commit would be wrong here.
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
