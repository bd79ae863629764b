"""[configs and options → **the words of each stage** → stages]

The configs and options of a run of several stages, and the settings that each stage gets from them.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from hcml_lightning.tools.stages import STAGE_NAMES, TRAINING, Stage, test_of
from hcml_lightning.tools.training.configs import (
    check_order,
    flatten,
    inline,
    option_pairs,
    parsed,
    read_config,
    split_words,
)

if TYPE_CHECKING:
    from hcml_lightning.data import VideoDataModule

# Settings that may change between two starts of a run without changing its result.
HARMLESS = (
    "num_workers",
    "recompute",
    "enable_progress_bar",
    "log_every_n_steps",
    "save_every_n_steps",
    "save_every_n_epochs",
)

# Settings that a training stage ignores.
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
    """Configs and options of all stages, with parts for single ones.

    If a top-level key of a config or the first part of an option is the name of a stage, what is below it holds only
    for this stage and those that inherit from it: `recognition: {trainer: {max_epochs: 9}}` in a file,
    `--recognition.trainer.max_epochs 9` on the command line.

    Attributes:
        configs: paths or inline mappings, in the given order.
        options: for each option, its name without dashes and its words.
    """

    configs: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> "Plan":
        """Read configs and options from a command line.

        Raises:
            ValueError: if a word belongs to no option, an option begins with a misspelt stage, or the configs are in
                the wrong order.
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
                raise ValueError(f"unknown option '--{name}'; did you mean '--{close[0]}.{tail}'?")
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
        """Check the settings of all stages before the first one runs, so that no mistake shows only after days.

        If there are several stages, their words are parsed, their data and tasks built, and the test split listed.

        Raises:
            ValueError: if a stage refuses a setting or its dataset.
        """
        stages = [name for name in names if name in TRAINING]
        for name in stages:
            self._check_class(TRAINING[name])
            if self.settings(TRAINING[name]).get("trainer.fast_dev_run"):
                raise ValueError(
                    "--trainer.fast_dev_run keeps no weights for the next stage to start from; to try all stages, use "
                    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 and a "
                    "temporary --run_dir"
                )
        if len(names) < 2 or not stages:
            # A single stage runs next, and reports its mistakes itself.
            return
        from hcml_lightning.tools.training.parsed_words import ParsedWords

        planned = [TRAINING[name] for name in stages]
        if "test" in names:
            planned.append(test_of(planned[-1]))
        first = None
        for stage in planned:
            try:
                data = ParsedWords(self.words(stage)).try_constructors()
                lists = (type(data), data.root, data.batch_size)
                first = first or lists
                if stage.name == "test":
                    _check_test_split(data)
                elif lists != first:
                    # The first stage runs next, and lists its own data itself.
                    data.check_batch_size(len(data.records("train")))
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"stage '{stage.name}' (nothing has been run): {error}") from error

    def _check_class(self, stage: Stage) -> None:
        own = read_config(stage.config)["model"]["class_path"]
        settings = self.settings(stage)
        # The value of `--model` is the name of a class, or a mapping of the class and its arguments.
        given = settings.get("model", settings.get("model.class_path", own))
        given = str(given.get("class_path", own) if isinstance(given, dict) else given)
        others = {read_config(s.config)["model"]["class_path"] for s in TRAINING.values()} - {own}
        package, _, name = given.rpartition(".")
        # A class of another package is accepted even if its name is that of another stage's class.
        if name in others and package.partition(".")[0] in ("", "hcml_lightning"):
            raise ValueError(
                f"stage '{stage.name}' would be a {given} instead of a {own}; leave out --model and configs of single "
                "stages, which `hcml progressive` adds itself"
            )

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return the settings of one stage that its result depends on, flat and as they were given."""
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
        """Return whether a stage's own part of configs and options sets the weights that it starts from."""
        of_all = self.settings(Stage("", stage.config))
        return self.settings(stage).get(INIT_FROM) != of_all.get(INIT_FROM)

    def _options(self, stage: Stage) -> list[tuple[str, tuple[str, ...]]]:
        """Return the options that hold for one stage, its own ones last."""
        ranked = []
        for name, given in self.options:
            head, _, tail = name.partition(".")
            if head in stage.sections:
                ranked.append((1 + stage.sections.index(head), tail, given))
            elif head not in STAGE_NAMES:
                ranked.append((0, name, given))
        ranked.sort(key=lambda item: item[0])
        return [(name, given) for _, name, given in ranked]


def _check_test_split(data: "VideoDataModule") -> None:
    if not data.records("test"):
        raise ValueError(
            f"root={data.root}: the test split has no videos; leave the test out (--stages), or set labelled data for "
            "it (--test.data.root)"
        )


def config_parts(content: Mapping[str, Any], sections: Sequence[str]) -> list[dict[str, Any]]:
    """Return the parts of a config that hold for a stage: the common part, then those of its sections.

    Example:
        >>> config_parts({"seed_everything": 1, "flow": {"model": {}}, "test": {}}, ["flow"])
        [{'seed_everything': 1}, {'model': {}}]
    """
    common = {key: value for key, value in content.items() if key not in STAGE_NAMES}
    parts = [common] if common or not content else []
    return [*parts, *(dict(content[name]) for name in sections if content.get(name))]


def assign(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a flat setting, and remove all settings below it, which belong to its old value."""
    for other in [key for key in settings if key.startswith(f"{name}.")]:
        del settings[other]
    settings[name] = value
