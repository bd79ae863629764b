"""[run folder → **run of Weights & Biases**]

Which run of W&B a run of ours is: a resumed one goes on in its own, and the stages of one `hcml progressive` share a
group. W&B itself is imported by Lightning's logger alone, when it is used.
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

from hcml_lightning.storage import folder_of_run
from hcml_lightning.tools.output import write_json

# Set by `wandb agent`, which chooses the runs of a sweep.
RUN_ID = "WANDB_RUN_ID"
# In the folder of a run, its id; in that of `hcml progressive`, the group of its stages.
NOTE = "wandb.json"


@contextmanager
def own_run() -> Iterator[None]:
    """End the run that is begun inside the block with the block."""
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
    """Write into the settings of W&B's logger which run it writes to, unless they or an agent say it already.

    Args:
        logger: `trainer.logger` of a config.
        resumed: checkpoint that a run goes on from.

    Returns:
        The id of the run, if it was chosen here.

    Raises:
        ValueError: if W&B is not installed.
    """
    settings = [s for s in (logger if isinstance(logger, list) else [logger]) if is_wandb(s)]
    if not settings:
        return None
    if find_spec("wandb") is None:
        raise ValueError(
            "the config asks for Weights & Biases (WandbLogger), which is not installed.\n"
            "Either pip install 'hcml-lightning[wandb]', or leave out -c configs/wandb.yaml: without it curves go to "
            "metrics.csv in the folder of the run."
        )
    arguments = settings[0]["init_args"]
    if arguments.get("id") or arguments.get("version") or RUN_ID in os.environ:
        return None
    known = None
    if resumed is not None:
        folder = folder_of_run(resumed.resolve().parent)
        known = _read(folder / NOTE).get("id")
        # A copy goes on as a run of its own: by the id it would write into what it was copied from.
        place = Path(arguments.get("save_dir") or ".", arguments.get("project") or "", known or "")
        if known and place.is_dir() and place.resolve() != folder:
            known = None
    arguments["id"] = known or new_id()
    # Without it a run that goes on would be replaced by what it goes on with.
    arguments["resume"] = arguments.get("resume") or "allow"
    return str(arguments["id"])


def folder_of_id(logger: Any) -> Path | None:
    """Where the checkpoints of a run lie whose id or version somebody has chosen; None where every start has its own.

    Args:
        logger: `trainer.logger` of a config.
    """
    first = logger[0] if isinstance(logger, list) and logger else logger
    arguments = first.get("init_args", {}) if hasattr(first, "get") else {}
    version, place = arguments.get("version"), Path(arguments.get("save_dir") or ".")
    if is_wandb(first):
        version = version or arguments.get("id") or os.environ.get(RUN_ID)
        # As WandbLogger itself looks for them.
        place /= arguments.get("project") or os.environ.get("WANDB_PROJECT", "lightning_logs")
    else:
        place /= arguments.get("name") or ""
        version = f"version_{version}" if isinstance(version, int) else version
    return place / str(version) / "checkpoints" if version else None


def new_id() -> str:
    """Eight characters that no reader of a config takes for a number, as it would 06753e64."""
    return secrets.choice("abcdef") + secrets.token_hex(4)[1:]


def without_run(logger: Any, run_id: str) -> Any:
    """Return the settings of loggers without a run that was chosen for them: who starts from them makes another."""
    if isinstance(logger, list):
        return [without_run(one, run_id) for one in logger]
    if not is_wandb(logger) or logger["init_args"].get("id") != run_id:
        return logger
    return {**logger, "init_args": {**logger["init_args"], "id": None, "resume": None}}


def is_wandb(logger: Any) -> bool:
    """Whether the settings of a logger are of W&B's.

    Example:
        >>> is_wandb({"class_path": "pytorch_lightning.loggers.WandbLogger"}), is_wandb(True)
        (True, False)
    """
    path = logger.get("class_path") if hasattr(logger, "get") else logger
    return str(path).rpartition(".")[2] == "WandbLogger"


def group_words(settings: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Return the option that puts a stage into the group of its run: the run's name, and what no other folder has.

    Args:
        settings: of the stage, flat.
        run_dir: folder of all stages.
    """
    by_hand = "trainer.logger.group" in settings or "WANDB_RUN_GROUP" in os.environ
    if by_hand or not is_wandb(settings.get("trainer.logger.class_path")):
        return []
    if "group" not in (note := _read(run_dir / NOTE)):
        note = {"group": f"{run_dir.resolve().name}-{secrets.token_hex(3)}"}
        write_json(run_dir / NOTE, note)
    return [f"--trainer.logger.init_args.group={note['group']}"]


def note_run(folder: Path, run_id: str) -> None:
    """Keep the id of a run in its folder, for the day when it is resumed."""
    write_json(folder / NOTE, {"id": run_id})


def _read(note: Path) -> dict[str, str]:
    return dict(json.loads(note.read_text())) if note.is_file() else {}


def _active_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
