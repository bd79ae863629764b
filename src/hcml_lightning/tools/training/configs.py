"""[words of the command line → **configs** → what runs]

Where recipes are stored, and how configs and options are ordered: configs first, then options.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from hcml_lightning.tools.stages import STAGE_NAMES

# In the repository this is a link to the top-level folder `configs`; in a wheel it is a folder with the files.
CONFIGS = Path(__file__).parents[2] / "configs"


def find_config(name: str | Path) -> Path:
    """Return the file that the value of `-c` names: a path, or one of the recipes that come with the package.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = CONFIGS / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
    if packaged.is_file():
        return packaged
    recipes = {str(path.relative_to(CONFIGS)): path.stem for path in all_recipes()}
    close = get_close_matches(path.stem, recipes.values(), 1, 0.7)
    meant = [recipe for recipe, stem in recipes.items() if stem in close]
    known = f"pass the path of a config or one of the package's: {', '.join(recipes)}"
    guess = f"did you mean '{meant[0]}'?" if meant else known
    raise FileNotFoundError(
        f"config '{name}' not found, neither here ({Path.cwd()}) nor in the package; {guess}"
    )


def all_recipes() -> list[Path]:
    """List the recipes that come with the package; its sweeps are for `wandb sweep`, not for `-c`."""
    return [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.parent.name != "sweeps"]


def is_inline(config: str) -> bool:
    """Return whether the value of `-c` is a mapping itself and not the path of a file."""
    return config.lstrip().startswith("{")


class _ConfigLoader(yaml.SafeLoader):
    """Constructs plain data only, so a config cannot create other objects, and refuses a key that appears twice.

    PyYAML keeps the last of equal keys, so a second section `trainer` would silently replace the first.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        places: dict[str, str] = {}
        for key, _ in node.value:
            # A mapping may be merged (`<<`) with several others.
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            place = f"{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if key.value in places:
                raise _KeyTwiceError(
                    f"'{key.value}' is at {places[key.value]} and again at {place} (line:column), and only the second "
                    "would count; keep one of them, with all settings under it"
                )
            places[key.value] = place
        return super().construct_mapping(node, deep)


class _KeyTwiceError(ValueError):
    """A mapping with the same key twice."""


def read_config(config: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file, or in `config` itself if that is an inline mapping.

    Raises:
        FileNotFoundError: if there is no such file, here or among the package's recipes.
        ValueError: if it is not YAML of plain data, not a mapping, has a key twice in one mapping, or is a sweep.
    """
    inline = is_inline(str(config))
    try:
        text = str(config) if inline else find_config(config).read_text("utf-8")
        content = _ConfigLoader(text).get_single_data()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{config}: is not YAML, but binary or not UTF-8 ({error.reason}); pass a config"
        ) from error
    except _KeyTwiceError as error:
        raise ValueError(f"{config}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        said = "brackets are nested too deeply" if deep else " ".join(str(error).split())
        step = "remove some of them" if deep else "fix it at that position"
        raise ValueError(f"{config}: is not valid YAML ({said}); {step}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(
            f"{config}: expected a mapping at the top level, got {type(content).__name__}; start it with a section "
            "such as 'trainer:'"
        )
    if "parameters" in content:
        raise ValueError(
            f"{config}: is a sweep and not a config; start it with `wandb sweep {config}`"
        )
    return content


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words of a command line into the configs and the rest, each in its order.

    Example:
        >>> split_words(["--model.lr", "1", "-c", "a.yaml", "--config=b.yaml", "-cc.yaml"])
        (['a.yaml', 'b.yaml', 'c.yaml'], ['--model.lr', '1'])
    """
    configs, rest = [], []
    remaining = iter(words)
    for word in remaining:
        if word in ("-c", "--config"):
            value = next(remaining, None)
            if value is None:
                raise ValueError(f"{word}: expected a config after it; add its path")
            configs.append(value)
        elif word.startswith("--config="):
            configs.append(word.removeprefix("--config="))
        elif word.startswith("-c") and not word.startswith("--"):
            configs.append(word.removeprefix("-c").removeprefix("="))
        else:
            rest.append(word)
    return configs, rest


def option_pairs(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Split options into pairs (name without dashes, its words as they were given).

    Raises:
        ValueError: if a word belongs to no option.

    Example:
        >>> option_pairs(["--model.lr", "0.1", "--trainer.devices=2"])
        [('model.lr', ['--model.lr', '0.1']), ('trainer.devices', ['--trainer.devices=2'])]
    """
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            pairs.append((word[2:].split("=", 1)[0], [word]))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise ValueError(
                f"'{word}' does not belong to an option; use --name value or -c config"
            )
    return pairs


def order_words(words: Sequence[str]) -> list[str]:
    """Put configs before options, and the classes of model and data before the configs with their settings.

    LightningCLI applies words from left to right, so `--model.lr 1 -c a.yaml` loses the 1, and a
    config that sets `data.init_args` is rejected if only a later one names the class of the data. Here
    an option always overrides a config, and a later config overrides an earlier one.

    Raises:
        FileNotFoundError: if a config is found nowhere.
        ValueError: if configs are in an order in which a more general one would override a more specific one, or if
            `trainer` is not a mapping in one of them, or if one has settings of single stages.
    """
    configs, rest = split_words(words)
    check_order(configs)
    ordered: list[str] = []
    classes: dict[str, dict[str, str]] = {}
    for config in configs:
        content = read_config(config)
        if not content:
            # jsonargparse refuses a config of nothing but comments.
            continue
        # Lightning would continue without an error.
        if not isinstance(content.get("trainer") or {}, Mapping):
            raise ValueError(
                f"{config}: trainer must be a mapping of options, got {content['trainer']!r}; write it as "
                "'trainer: {max_epochs: 9}'"
            )
        if alone := [name for name in STAGE_NAMES if name in content]:
            raise ValueError(
                f"{config}: is for `hcml progressive`, because it has settings of single stages ({', '.join(alone)}); "
                f"use that command (--stages {alone[0]} runs one stage), or remove these settings"
            )
        for key in ("model", "data"):
            section = content.get(key)
            if isinstance(section, Mapping) and "class_path" in section:
                classes[key] = {"class_path": str(section["class_path"])}
        ordered += ["--config", config if is_inline(config) else str(find_config(config))]
    first = ["--config", inline(classes)] if classes else []
    return [*first, *ordered, *rest]


def check_order(configs: Sequence[str]) -> None:
    """Raise if a stage's config comes after data or extras, or the data's after extras, and overrides their settings.

    A later config wins, so the schedule of a stage would silently replace the one that the data asks for, or its logger
    that of W&B.

    Raises:
        ValueError: if a setting would be lost; the message names it and the two configs.
    """
    before: list[tuple[str, int, dict[str, Any]]] = []
    for config in configs:
        content = read_config(config)
        rank, settings = _rank(content), flatten(content)
        for other, other_rank, others in before:
            lost = [n for n in settings if n in others and others[n] != settings[n]]
            if other_rank > rank and lost:
                raise ValueError(
                    f"-c {other} comes before -c {config}, so {lost[0]} would be {settings[lost[0]]} instead of "
                    f"{others[lost[0]]}. Later configs override earlier ones: put the stage first, then the data, then "
                    f"extras. To override all of them, pass an option: --{lost[0]} {settings[lost[0]]}"
                )
        before.append((config, rank, settings))


def _rank(content: Mapping[str, Any]) -> int:
    """Return the place of a config in the order: 0 if it names a task, 1 if it names data, 2 otherwise."""
    sections = [content.get("model"), content.get("data")]
    named = [isinstance(section, Mapping) and "class_path" in section for section in sections]
    return [*named, True].index(True)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted names, from which `init_args` is left out.

    Example:
        >>> flatten({"model": {"class_path": "A", "init_args": {"lr": 0.1}}})
        {'model.class_path': 'A', 'model.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def inline(content: Mapping[str, Any]) -> str:
    """Return a mapping as one line that `-c` takes in place of a file.

    Example:
        >>> inline({"model": {"init_args": {"lr": 0.1}}})
        '{model: {init_args: {lr: 0.1}}}'
    """
    text = yaml.safe_dump(dict(content), default_flow_style=True, width=2**20, sort_keys=False)
    return text.strip()


def typed_num_classes(words: Sequence[str]) -> int | None:
    """Return the number of classes that configs or options set for the model, None if they set none.

    Example:
        >>> typed_num_classes(["--model", "{class_path: ProbeTask, init_args: {num_classes: 7}}"])
        7

    Raises:
        ValueError: if it is not a whole number.
    """
    configs, rest = split_words(words)
    given = [flatten(read_config(config)) for config in configs]
    for name, said in option_pairs(rest):
        value = said[0].partition("=")[2] or " ".join(said[1:])
        if "num_classes" in name + value:
            given.append(flatten({name: parsed(value)}))
    typed = None
    for settings in given:
        for name, value in settings.items():
            if name.replace(".init_args", "") == "model.num_classes":
                typed = value
    if typed is not None and type(typed) is not int:
        raise ValueError(
            f"--model.num_classes: expected a whole number, got {typed!r}; omit it to use the number in the data"
        )
    return typed


def parsed(value: str) -> Any:
    """Parse the value of an option as YAML; if it is not YAML, such as some patterns of names, return it as typed."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        # Whether this is an error is left to the parser of the command line.
        return value
