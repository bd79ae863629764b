"""[checkpoint → **folder of its run** → checkpoint]

Where the checkpoints of a run are in its folder.
"""

from pathlib import Path


def folder_of_run(checkpoints: Path) -> Path:
    """Return the folder of a run from that of its checkpoints: the parent of `checkpoints`, else the folder itself.

    Example:
        >>> folder_of_run(Path("run/checkpoints")).as_posix(), folder_of_run(Path("runs/first")).as_posix()
        ('run', 'runs/first')
    """
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def checkpoint_near(folder: Path, noted: Path) -> Path | None:
    """Find the checkpoint that a run recorded, even if its folder was moved or copied since.

    Another run may by now be stored at the recorded path, so the run's own folder is searched first.

    Args:
        folder: folder of the run.
        noted: path that the run recorded.

    Returns:
        The path in the run's own folder; else the recorded path; else the path in another run that was moved together
        with this one (before the recorded path, if that is relative); None if there is no such file.
    """
    own = folder / "checkpoints" / noted.name
    if not own.is_file() and noted.parent.name != "checkpoints":
        own = folder / noted.name
    beside = folder.parent.joinpath(*noted.parts[-3:])
    # A relative path may now lead to runs in another folder, so it is tried last.
    order = (own, noted, beside) if noted.is_absolute() else (own, beside, noted)
    return next((path for path in order if path.is_file()), None)
