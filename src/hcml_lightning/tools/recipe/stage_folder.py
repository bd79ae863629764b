"""[words of one stage → process → **done.json**]

One stage in its folder: what remains to be done, where its weights come from, and the record of its end.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from hcml_lightning.stop_signals import STOP_SIGNALS, status_of
from hcml_lightning.storage import sha256_of
from hcml_lightning.tools.console.output import write_json
from hcml_lightning.tools.recipe.done import Done, done_before
from hcml_lightning.tools.recipe.plan import HARMLESS, OF_TESTS, Plan
from hcml_lightning.tools.run.layout import folder_of_run
from hcml_lightning.tools.run.wandb_runs import group_words
from hcml_lightning.tools.stages import Stage, test_of

# Signals that a process gets for what it did itself.
FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_USUAL_LOGGERS = ("CSVLogger", "TensorBoardLogger", "WandbLogger")

# Runs the command line with these words, and returns its exit status.
Launch = Callable[[list[str]], int]


class StageError(RuntimeError):
    """A stage that failed, or that cannot begin or resume.

    Args:
        message: what happened, and what to do.
        status: exit status of the command.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class StageFolder:
    """One stage in its folder.

    Args:
        plan: settings of all stages.
        name: of the stage.
        recipe: the stage, or for the test the one whose weights are tested.
        previous: record of the stage whose weights this one starts from or tests, if there is one.
        folder: folder of this stage.
    """

    def __init__(
        self, plan: Plan, name: str, recipe: Stage, previous: Done | None, folder: Path
    ) -> None:
        stage = recipe
        if name == "test":
            stage = test_of(recipe)
        self.name, self.folder, self.previous = name, folder, previous
        self.words = plan.words(stage)
        self.settings = json.loads(json.dumps(plan.settings(stage), default=str))
        self.last = folder / "checkpoints" / "last.ckpt"
        if previous is not None:
            self.settings["from"] = f"{previous.stage} {previous.checkpoint_sha256[:12]}"

    def finish(self, launch: Launch) -> Done:
        """Run what remains of the stage, and return its record.

        Raises:
            StageError: if the stage fails, cannot begin, or was run with other settings.
        """
        self._check_settings()
        if (before := done_before(self.folder)) is not None:
            self._tell(f"already done ({before.seconds:.0f} s with start-up)")
            return before
        command = "test" if self.name == "test" else "fit"
        result = self.folder / f"{command}.json"
        if not self._has_ended(result):
            # Results without their weights, which the stage makes again.
            result.unlink(missing_ok=True)
            self._note_start()
            status = launch([command, *self.words, *self._own_words()])
            if status != 0 or not self._has_ended(result):
                raise self._unfinished(status)
        record = self._record(json.loads(result.read_text()))
        write_json(self.folder / "done.json", record._asdict())
        return record

    def _has_ended(self, result: Path) -> bool:
        """Return whether the stage left its results and intact weights."""
        return result.is_file() and (self.name == "test" or self._newest() == self.last)

    def _newest(self) -> Path | None:
        # Imported late, so that `--help` does not wait for torch.
        from hcml_lightning.checkpoint_files import newest_whole

        return newest_whole(self.last, self._tell)

    def _own_words(self) -> list[str]:
        """Return the options that set where this stage writes and where its weights come from."""
        words = [f"--checkpoint.dirpath={self.last.parent}"]
        logger = self.settings.get("trainer.logger", True)
        if isinstance(logger, str) or logger is True:
            own = {"save_dir": self.folder.parent, "name": self.name}
            takes = self._options_of(self.settings.get("trainer.logger.class_path", logger), own)
            words += [f"--trainer.logger.init_args.{k}={v}" for k, v in own.items() if k in takes]
            words += group_words(self.settings, self.folder.parent)
        if self.name == "test" and self.previous is not None:
            self._check_weights_of(self.previous)
            words.append(f"--ckpt_path={self.previous.checkpoint}")
        elif (state := self._newest()) is not None:
            self._tell(f"resumes from {state}")
            words.append(f"--ckpt_path={state}")
        elif self.previous is not None:
            self._check_weights_of(self.previous)
            words.append(f"--model.init_from={self.previous.checkpoint}")
        return words

    def _options_of(self, logger: str | bool, wanted: Iterable[str]) -> Iterable[str]:
        """Return the options of a logger; for Lightning's usual ones, which have them all, those in `wanted`."""
        if logger is True or str(logger).rpartition(".")[2] in _USUAL_LOGGERS:
            return wanted
        from hcml_lightning.tools.training.parsed_words import ParsedWords

        return list(vars(ParsedWords(self.words).config.trainer.logger.init_args))

    def _check_weights_of(self, previous: Done) -> None:
        path = Path(previous.checkpoint)
        fault = None if path.is_file() else "there is no such file"
        if fault is None and sha256_of(path) != previous.checkpoint_sha256:
            fault = "its content is not what the stage wrote"
        if fault is not None:
            done = self.folder.parent / previous.stage / "done.json"
            raise StageError(
                f"stage '{self.name}' cannot start: {previous.checkpoint} is unusable, {fault}. Delete {done} to train "
                f"the end of '{previous.stage}' again from the state before that"
            )

    def _tell(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)

    def _unfinished(self, status: int) -> StageError:
        """Return the error that tells how a stage ended and from where it resumes."""
        # Under the agent of a W&B sweep, a stage that SIGTERM ended has status 0.
        if status == status_of(signal.SIGTERM):
            status = 128 + signal.SIGTERM
        then = "To go on,"
        if status - 128 in STOP_SIGNALS:
            how = f"was told to stop ({signal.Signals(status - 128).name})."
        elif -status in FAULTS:
            how = f"crashed ({signal.Signals(-status).name}) in compiled code; PYTHONFAULTHANDLER=1 shows where."
        elif status < 0:
            how = f"was killed ({signal.Signals(-status).name}), by someone or by a system that had run out of memory."
        elif status == 0:
            how = "ended without a result."
            then = "If max_epochs, max_steps or a limit of batches is 0, raise it, then"
        else:
            how, then = f"failed (exit status {status}).", "Mend what its output above says, then"
        state = self._newest()
        goes_on = f"it resumes from {state}" if state else "it starts over"
        return StageError(
            f"stage '{self.name}' {how} {then} run the same command again: {goes_on}",
            status if status - 128 in STOP_SIGNALS else 1,
        )

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        results = ("fit.json", "test.json", "done.json", "checkpoints/*.ckpt")
        if not path.is_file() or not any(any(self.folder.glob(name)) for name in results):
            # A stage that failed before it saved anything starts over, and may do so with other settings.
            return
        before = json.loads(path.read_text())["settings"]
        # Other settings of the test do not require that a training stage is run again.
        unseen = OF_TESTS if self.name != "test" else ()
        changed = sorted(
            name
            for name in before.keys() | self.settings.keys()
            if not _same(name, before.get(name), self.settings.get(name))
            and name not in unseen
            # An older version may have recorded these.
            and name.rpartition(".")[2] not in HARMLESS
            and not name.startswith("trainer.logger")
        )
        if changed:
            changes = "; ".join(
                f"{name}: {before.get(name)} -> {self.settings.get(name)}" for name in changed
            )
            way = ""
            if self.name == "test" and self.previous is not None:
                weights = Path(self.previous.checkpoint)
                config = folder_of_run(weights.parent) / "config.yaml"
                way = (
                    f"To test its weights in another way, run hcml test -c {quote(str(config))} --ckpt_path "
                    f"{quote(str(weights))}. "
                )
            raise StageError(
                f"stage '{self.name}' in {self.folder} was run with other settings ({changes}). {way}"
                "Use the old settings again (if the data has moved, put a link in its old place), choose another "
                "--run_dir, or delete the folder of this stage and of those after it"
            )

    def _note_start(self) -> None:
        path = self.folder / "settings.json"
        spent = 0.0
        if path.is_file() and self.last.is_file():
            # An interrupted start counts up to its last checkpoint.
            before = json.loads(path.read_text())
            spent = before["spent"] + max(0.0, self.last.stat().st_mtime - before["started"])
        record = {"settings": self.settings, "started": time.time(), "spent": spent}
        write_json(path, record)

    def _record(self, result: dict[str, Any]) -> Done:
        times = json.loads((self.folder / "settings.json").read_text())
        ended = (self.folder / f"{'test' if self.name == 'test' else 'fit'}.json").stat().st_mtime
        tested = self.previous if self.name == "test" else None
        checkpoint = self.last.absolute() if tested is None else Path(tested.checkpoint)
        return Done(
            stage=self.name,
            checkpoint=str(checkpoint),
            checkpoint_sha256=sha256_of(checkpoint),
            epochs=0 if self.name == "test" else int(result["epochs"]),
            seconds=round(times["spent"] + ended - times["started"], 1),
            metrics=result["metrics"],
            settings=self.settings,
        )


def _same(name: str, before: Any, now: Any) -> bool:
    """Return whether two values of a setting mean the same."""
    if name == "data.root" and before and now:
        # `str`, because the name of a folder such as 2024 is parsed as a number.
        return os.path.realpath(str(before)) == os.path.realpath(str(now))
    if isinstance(before, str) != isinstance(now, str):
        # YAML parses 1e-3 as a string.
        with suppress(TypeError, ValueError):
            return float(before) == float(now)
    return bool(before == now)
