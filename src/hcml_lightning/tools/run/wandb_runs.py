"""[run folder → **run of Weights & Biases**]

Determines the W&B run of each run: a resumed run continues its own, and the stages of one `hcml progressive` share a
group. W&B itself is imported only by Lightning's logger, when that is used.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hcml_lightning.tools.console.output import write_json
from hcml_lightning.tools.run.layout import folder_of_run

# Set by `wandb agent`, which chooses the runs of a sweep.
RUN_ID = "WANDB_RUN_ID"
# Holds the id of the W&B run in the folder of a run, and the group of the stages in that of `hcml progressive`.
NOTE = "wandb.json"


@contextmanager
def own_run() -> Iterator[None]:
    """Finish the W&B run that was started inside the block when the block ends."""
    before, failed = _active_run(), True
    try:
        yield
        failed = False
    except SystemExit as end:
        failed = end.code not in (0, None)
        raise
    finally:
        run = _active_run()
        if run is not None and run is not before:
            run.finish(exit_code=int(failed))


def choose_run(logger: Any, resumed: Path | None) -> str | None:
    """Set the id of the run in the settings of W&B's logger, unless they or the agent of a sweep set it already.

    Args:
        logger: `trainer.logger` of a config; changed in place.
        resumed: checkpoint that the run resumes from, if it does.

    Returns:
        The id of the run if it was chosen here, else None.

    Raises:
        ValueError: if W&B is not installed.
    """
    settings = [s for s in (logger if isinstance(logger, list) else [logger]) if is_wandb(s)]
    if not settings:
        return None
    if find_spec("wandb") is None:
        raise ValueError(
            "the config asks for Weights & Biases (WandbLogger), which is not installed.\n"
            "Install it with pip install 'hcml-lightning[wandb]', or leave out -c configs/wandb.yaml: curves then go "
            "to metrics.csv in the run folder."
        )
    arguments = settings[0]["init_args"]
    if arguments.get("id") or arguments.get("version") or RUN_ID in os.environ:
        return None
    known = None
    if resumed is not None:
        folder = folder_of_run(resumed.resolve().parent)
        known = _read(folder / NOTE).get("id")
        # A copied folder continues as a new W&B run: with the old id, it would write into the run it was copied from.
        place = Path(arguments.get("save_dir") or ".", arguments.get("project") or "", known or "")
        if known and place.is_dir() and place.resolve() != folder:
            known = None
    arguments["id"] = known or new_id()
    # Otherwise a resumed run would replace what was logged before.
    arguments["resume"] = arguments.get("resume") or "allow"
    return str(arguments["id"])


def folder_of_id(logger: Any) -> Path | None:
    """Return the checkpoint folder of a run whose id or version is set; None if every start gets its own.

    Args:
        logger: `trainer.logger` of a config.
    """
    first = logger[0] if isinstance(logger, list) and logger else logger
    arguments = first.get("init_args", {}) if hasattr(first, "get") else {}
    version, place = arguments.get("version"), Path(arguments.get("save_dir") or ".")
    if is_wandb(first):
        version = version or arguments.get("id") or os.environ.get(RUN_ID)
        # The same defaults as in WandbLogger.
        place /= arguments.get("project") or os.environ.get("WANDB_PROJECT", "lightning_logs")
    else:
        place /= arguments.get("name") or ""
        version = f"version_{version}" if isinstance(version, int) else version
    return place / str(version) / "checkpoints" if version else None


def new_id() -> str:
    """Return eight characters that no parser of a config reads as a number, as it would 06753e64."""
    return secrets.choice("abcdef") + secrets.token_hex(4)[1:]


def without_run(logger: Any, run_id: str) -> Any:
    """Return the settings of loggers without the W&B run `run_id`, so that a run started from them gets a new one."""
    if isinstance(logger, list):
        return [without_run(one, run_id) for one in logger]
    if not is_wandb(logger) or logger["init_args"].get("id") != run_id:
        return logger
    return {**logger, "init_args": {**logger["init_args"], "id": None, "resume": None}}


def is_wandb(logger: Any) -> bool:
    """Return whether the settings of a logger are those of W&B's.

    Example:
        >>> is_wandb({"class_path": "pytorch_lightning.loggers.WandbLogger"}), is_wandb(True)
        (True, False)
    """
    path = logger.get("class_path") if hasattr(logger, "get") else logger
    return str(path).rpartition(".")[2] == "WandbLogger"


def group_words(settings: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Return the option that puts a stage into the W&B group of its run: the name of the run and a random suffix.

    Args:
        settings: flat settings of the stage.
        run_dir: folder of all stages.

    Returns:
        A list with the option, empty if the user sets the group or the stage is not logged to W&B.
    """
    by_hand = "trainer.logger.group" in settings or "WANDB_RUN_GROUP" in os.environ
    if by_hand or not is_wandb(settings.get("trainer.logger.class_path")):
        return []
    if "group" not in (note := _read(run_dir / NOTE)):
        note = {"group": f"{run_dir.resolve().name}-{secrets.token_hex(3)}"}
        write_json(run_dir / NOTE, note)
    return [f"--trainer.logger.init_args.group={note['group']}"]


def note_run(folder: Path, run_id: str) -> None:
    """Save the id of the W&B run in the folder of the run, for when it is resumed."""
    write_json(folder / NOTE, {"id": run_id})


def _read(note: Path) -> dict[str, str]:
    return dict(json.loads(note.read_text())) if note.is_file() else {}


def _active_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
