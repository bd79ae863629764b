"""[words of one stage → process → **done.json**]

One stage in its folder: what of it is still to be done, where its weights come from, and the record of its end.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hcml_lightning.stop_signals import STOP_SIGNALS, status_of
from hcml_lightning.storage import folder_of_run, newest_whole, sha256_of
from hcml_lightning.tools.done import Done, done_before
from hcml_lightning.tools.output import write_json
from hcml_lightning.tools.plan import HARMLESS, OF_TESTS, Plan
from hcml_lightning.tools.stages import Stage
from hcml_lightning.tools.wandb_runs import group_words

_USUAL_LOGGERS = ("CSVLogger", "TensorBoardLogger", "WandbLogger")

# Runs the command line with these words, and returns its exit status.
Launch = Callable[[list[str]], int]


class StageError(RuntimeError):
    """A stage that did not end well, or that cannot go on.

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
        previous: the stage before.
        folder: of this stage.
    """

    def __init__(
        self, plan: Plan, name: str, recipe: Stage, previous: Done | None, folder: Path
    ) -> None:
        stage = recipe
        if name == "test":
            stage = Stage("test", recipe.config, recipe.sections)
        self.name, self.folder, self.previous = name, folder, previous
        self.words = plan.words(stage)
        self.settings = json.loads(json.dumps(plan.settings(stage), default=str))
        self.last = folder / "checkpoints" / "last.ckpt"
        if previous is not None:
            self.settings["from"] = f"{previous.stage} {previous.checkpoint_sha256[:12]}"

    def finish(self, launch: Launch) -> Done:
        """Do what is still to be done."""
        self._check_settings()
        if (before := done_before(self.folder)) is not None:
            self._tell(f"done before ({before.seconds:.0f} s)")
            return before
        command = "test" if self.name == "test" else "fit"
        result = self.folder / f"{command}.json"
        if not self._has_ended(result):
            self._note_start()
            status = launch([command, *self.words, *self._own_words()])
            if status != 0 or not self._has_ended(result):
                raise self._unfinished(status)
        record = self._record(json.loads(result.read_text()))
        write_json(self.folder / "done.json", record._asdict())
        return record

    def _has_ended(self, result: Path) -> bool:
        """Whether the stage left its numbers, and its weights whole; what has broken since is trained again."""
        if not result.is_file():
            return False
        if self.name == "test" or newest_whole(self.last, self._tell) == self.last:
            return True
        result.unlink()
        return False

    def _own_words(self) -> list[str]:
        """Say where this stage writes, and where its weights come from."""
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
        elif (state := newest_whole(self.last, self._tell)) is not None:
            self._tell(f"resumes from {state}")
            words.append(f"--ckpt_path={state}")
        elif self.previous is not None:
            self._check_weights_of(self.previous)
            words.append(f"--model.init_from={self.previous.checkpoint}")
        return words

    def _options_of(self, logger: str | bool, wanted: Iterable[str]) -> Iterable[str]:
        """The options that a logger has, of those that Lightning's usual ones have."""
        if logger is True or str(logger).rpartition(".")[2] in _USUAL_LOGGERS:
            return wanted
        from hcml_lightning.tools.parsed_words import ParsedWords

        return list(vars(ParsedWords(self.words).config.trainer.logger.init_args))

    def _check_weights_of(self, previous: Done) -> None:
        path = Path(previous.checkpoint)
        fault = None if path.is_file() else "there is no such file"
        if fault is None and sha256_of(path) != previous.checkpoint_sha256:
            fault = "its content is not what the stage left"
        if fault is not None:
            done = self.folder.parent / previous.stage / "done.json"
            raise StageError(
                f"stage '{self.name}' cannot begin: {previous.checkpoint} is broken, {fault}. Delete {done}, and the "
                f"end of '{previous.stage}' is trained again from its state before that"
            )

    def _tell(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)

    def _unfinished(self, status: int) -> StageError:
        """Say how a stage ended, and how it goes on."""
        # Below the agent of a sweep, a stage that was told to end has status 0.
        if status == status_of(signal.SIGTERM):
            status = 128 + signal.SIGTERM
        if status - 128 in STOP_SIGNALS:
            how = f"was told to end ({signal.Signals(status - 128).name})."
        elif status < 0:
            how = f"was killed ({signal.Signals(-status).name}), by someone or by a system that ran out of memory."
        else:
            how = f"did not end (exit status {status}); what it said is above."
        state = newest_whole(self.last, self._tell) or "its start"
        return StageError(
            f"stage '{self.name}' {how} Started again, it resumes from {state}",
            status if status - 128 in STOP_SIGNALS else 1,
        )

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        results = ("fit.json", "test.json", "done.json", "checkpoints/*.ckpt")
        if not path.is_file() or not any(any(self.folder.glob(name)) for name in results):
            # What failed before it had learned anything is begun again, and may be begun otherwise.
            return
        before = json.loads(path.read_text())["settings"]
        # Of a stage that trains another test needs no other training.
        unseen = OF_TESTS if self.name != "test" else ()
        changed = sorted(
            name
            for name in before.keys() | self.settings.keys()
            if not _same(name, before.get(name), self.settings.get(name))
            and name not in unseen
            # An older version may have noted it.
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
                way = f"For another test of its weights, hcml test -c {config} --ckpt_path {weights}. "
            raise StageError(
                f"stage '{self.name}' in {self.folder} was run with other settings ({changes}). {way}"
                "Give the old "
                "ones again (for data that lies elsewhere now, a link at its old place), name another --run_dir, or "
                "delete the folder of this stage and of those after it"
            )

    def _note_start(self) -> None:
        path = self.folder / "settings.json"
        spent = 0.0
        if path.is_file() and self.last.is_file():
            # A start that was cut off counts up to its last checkpoint.
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
    """Whether a setting means the same."""
    if name == "data.root" and before and now:
        # A folder may be called 2024.
        return os.path.realpath(str(before)) == os.path.realpath(str(now))
    if isinstance(before, str) != isinstance(now, str):
        # YAML takes 1e-3 for a word.
        with suppress(TypeError, ValueError):
            return float(before) == float(now)
    return bool(before == now)
