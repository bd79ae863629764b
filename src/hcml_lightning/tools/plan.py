"""[configs and options → **the words of each stage** → stages]

What a run of several stages consists of, and which settings each of them gets.
"""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from hcml_lightning.tools.configs import (
    check_order,
    flatten,
    inline,
    option_pairs,
    parsed,
    read_config,
    split_words,
)
from hcml_lightning.tools.stages import STAGE_NAMES, TRAINING, Stage

# What may change between two starts of a run without another result.
HARMLESS = (
    "num_workers",
    "recompute",
    "enable_progress_bar",
    "log_every_n_steps",
    "save_every_n_steps",
    "save_every_n_epochs",
)

# What a stage that trains does not look at.
OF_TESTS = (
    "data.test_clips",
    "data.test_crops",
    "data.test_crop_size",
    "model.views_per_forward",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
)

INIT_FROM = "model.init_from"


class Plan(NamedTuple):
    """Configs and options for all stages, with parts for single ones.

    A key at the top of a config, or the first part of an option, that is the name of a stage makes
    what is below it hold for this stage alone: `recognition: {trainer: {max_epochs: 9}}` in a file,
    `--recognition.trainer.max_epochs 9` on the command line.

    Attributes:
        configs: paths or inline mappings, in their order.
        options: name without dashes and the words of each option.
    """

    configs: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> "Plan":
        """Read configs and options from a command line.

        Raises:
            ValueError: if a word belongs to no option, or configs stand in the wrong order.
        """
        configs, rest = split_words(words)
        check_order(configs)
        pairs = tuple((name, tuple(given)) for name, given in option_pairs(rest))
        for name, _ in pairs:
            head, _, tail = name.partition(".")
            if (
                tail
                and (close := get_close_matches(head, STAGE_NAMES, 1, 0.8))
                and head not in STAGE_NAMES
            ):
                raise ValueError(f"no option '--{name}'; did you mean '--{close[0]}.{tail}'?")
        return cls(tuple(configs), pairs)

    def words(self, stage: Stage) -> list[str]:
        """Return the words that LightningCLI gets for one stage."""
        words = ["--config", stage.config]
        for config in self.configs:
            parts = config_parts(read_config(config), stage.sections)
            whole = len(parts) == 1 and parts[0] == read_config(config)
            words += [w for part in parts for w in ("--config", config if whole else inline(part))]
        for name, given in self._options(stage):
            value = given[0].partition("=")
            words += [f"--{name}{value[1]}{value[2]}", *given[1:]]
        return words

    def check(self, names: Sequence[str]) -> None:
        """Parse the words of stages, build what they name and run none: no mistake is to show after days.

        Raises:
            SystemExit: at the first mistake of the words, which has been told.
            ValueError: at the first setting, or dataset, that a stage refuses.
        """
        stages = [name for name in names if name in TRAINING]
        for name in stages:
            self._check_class(TRAINING[name])
            if self.settings(TRAINING[name]).get("trainer.fast_dev_run"):
                raise ValueError(
                    "--trainer.fast_dev_run keeps no weights that the next stage could start from; to try all stages, "
                    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 and a "
                    "--run_dir to throw away"
                )
        if len(stages) < 2:
            # It is about to say so itself.
            return
        from hcml_lightning.tools.parsed_words import ParsedWords

        first = None
        for name in stages:
            try:
                data = ParsedWords(self.words(TRAINING[name])).try_constructors()
                lists = (type(data), data.root, data.batch_size)
                first = first or lists
                if lists != first:
                    # What the first stage trains on it is about to list itself.
                    data.check_batch_size(len(data.records("train")))
            except SystemExit:
                print(f"This is said of the stage '{name}'; nothing has been run.", file=sys.stderr)
                raise
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"stage '{name}', before anything runs: {error}") from error

    def _check_class(self, stage: Stage) -> None:
        own = read_config(stage.config)["model"]["class_path"]
        settings = self.settings(stage)
        # `--model` names a class, or holds it with its arguments.
        given = settings.get("model", settings.get("model.class_path", own))
        given = str(given.get("class_path", own) if isinstance(given, dict) else given)
        others = {read_config(s.config)["model"]["class_path"] for s in TRAINING.values()} - {own}
        package, _, name = given.rpartition(".")
        # One of somebody's own has a path, whatever its name.
        if name in others and package.partition(".")[0] in ("", "hcml_lightning"):
            raise ValueError(
                f"stage '{stage.name}' would be a {given} and not a {own}: leave out configs of single stages, which "
                "`hcml progressive` adds by itself, and --model"
            )

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return all settings of one stage, flat, as they were given: what its result depends on."""
        settings: dict[str, Any] = {}
        for config in (stage.config, *self.configs):
            for part in config_parts(read_config(config), stage.sections):
                for name, value in flatten(part).items():
                    assign(settings, name, value)
        for name, given in self._options(stage):
            text = given[0].partition("=")[2] or " ".join(given[1:])
            assign(settings, name.replace(".init_args", ""), parsed(text))
        return {k: v for k, v in settings.items() if k.rpartition(".")[2] not in HARMLESS}

    def names_weights(self, stage: Stage) -> bool:
        """Whether a stage's own part of configs and options says which weights it starts from."""
        of_all = self.settings(Stage("", stage.config))
        return self.settings(stage).get(INIT_FROM) != of_all.get(INIT_FROM)

    def _options(self, stage: Stage) -> list[tuple[str, tuple[str, ...]]]:
        """Return the options of one stage, those of its own last."""
        ranked = []
        for name, given in self.options:
            head, _, tail = name.partition(".")
            if head in stage.sections:
                ranked.append((1 + stage.sections.index(head), tail, given))
            elif head not in STAGE_NAMES:
                ranked.append((0, name, given))
        ranked.sort(key=lambda item: item[0])
        return [(name, given) for _, name, given in ranked]


def config_parts(content: Mapping[str, Any], sections: Sequence[str]) -> list[dict[str, Any]]:
    """Return what of a config holds for a stage: the common part, then those of its sections.

    Example:
        >>> config_parts({"seed_everything": 1, "flow": {"model": {}}, "test": {}}, ["flow"])
        [{'seed_everything': 1}, {'model': {}}]
    """
    common = {key: value for key, value in content.items() if key not in STAGE_NAMES}
    parts = [common] if common or not content else []
    return [*parts, *(dict(content[name]) for name in sections if content.get(name))]


def assign(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a flat setting; what is below it is gone with what stood there."""
    for other in [key for key in settings if key.startswith(f"{name}.")]:
        del settings[other]
    settings[name] = value
