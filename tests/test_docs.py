"""Commands in the README and the docs are valid, and the examples run."""

import argparse
import ast
import importlib
import inspect
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import hcml_lightning
from hcml_lightning import RecognitionTask
from hcml_lightning.cli import TOOL_COMMANDS, TRAINER_COMMANDS, main
from hcml_lightning.tasks.base import MotionTask
from hcml_lightning.tools.console.noise import quiet
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.stages import PAPER, TRAINING, Stage
from hcml_lightning.tools.training.configs import find_config, read_config

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# The config that a run writes is that of its stage and of some data.
STAGE_OF_FOLDER = {
    "flow": "1_flow",
    "contrast1": "2_contrast_level1",
    "contrast2": "3_contrast_level2",
    "recognition": "4_recognition",
}
SHELL = ("cd", "source", "git", "pip", "export", "cp", "sudo")


class Understood(Exception):
    """A command was parsed; it need not run."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of each command in the shell blocks of all pages."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for words in one_by_one(shlex.split(line, comments=True)):
                    yield page.name, words


def one_by_one(words: list[str]) -> list[list[str]]:
    """Split a line into its commands, without the variables that are set before them."""
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|", ";"):
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [command for command in found if command]


ALL = list(dict.fromkeys((page, tuple(words)) for page, words in commands()))
HCML = [
    (page, words[words.index(name) + 1 :])
    for page, words in ALL
    for name in ("hcml", "hcml_lightning")
    if name in words and words[0] in ("hcml", "srun", "torchrun", "python")
]


def test_pages_contain_commands():
    assert len(HCML) > 30
    assert {words[0] for _, words in HCML} >= {"fit", "test", "progressive", "data", "predict"}


@pytest.mark.parametrize(
    ("page", "words"), HCML, ids=[f"{page}-{' '.join(w)[:60]}" for page, w in HCML]
)
def test_command_is_parsed(
    page: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs" / "examples"))
    command, *rest = words
    rest = [own_config(word, tmp_path) for word in rest]
    if command == "progressive":
        options = argparse.ArgumentParser(allow_abbrev=False)
        options.add_argument("--run_dir", required=True)
        options.add_argument("--stages", default=",".join(PAPER))
        known, rest = options.parse_known_args(rest)
        plan = Plan.from_words(rest)
        recipe = TRAINING["recognition"]
        for name in known.stages.split(","):
            stage = Stage("test", recipe.config, recipe.sections) if name == "test" else None
            understand_stage("test" if stage else "fit", plan.words(stage or TRAINING[name]))
    elif command in TRAINER_COMMANDS:
        understand_stage(command, rest)
    else:
        assert command in TOOL_COMMANDS or command.startswith("--"), f"{page}: hcml {command}"
        understand_tool([command, *rest], monkeypatch)


def own_config(word: str, folder: Path) -> str:
    """Write a config in place of one that only a run would have written."""
    match = re.fullmatch(r"(?:runs/k400|runs)/(\w+)/(?:version_\d+/)?config\.yaml", word)
    if match is None:
        return word
    stage = read_config(f"stages/{STAGE_OF_FOLDER.get(match[1], match[1])}.yaml")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**stage, **read_config("data/ucf101.yaml")}))
    return str(file)


def understand_stage(command: str, words: list[str]) -> None:
    """Parse the words of `hcml fit|validate|test` as the command line does, and stop before anything is built."""
    from hcml_lightning.tools.training.motion_cli import MotionCLI

    class Parsed(MotionCLI):
        def before_instantiate_classes(self) -> None:
            raise Understood

    asks_for_help = any(word.endswith(("help", "--print_config")) for word in words)
    with quiet(), pytest.raises(SystemExit if asks_for_help else Understood) as stopped:
        Parsed([command, *words])
    if asks_for_help:
        assert stopped.value.code == 0


def understand_tool(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tool parse its words, and stop it there."""
    import jsonargparse

    def stopping(parser: type) -> None:
        real = parser.parse_args

        def parse(self: object, *args: object, **kwargs: object) -> object:
            real(self, *args, **kwargs)
            raise Understood

        monkeypatch.setattr(parser, "parse_args", parse)

    known = argparse.ArgumentParser.parse_known_args

    def parse_known(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> object:
        # The demo takes the options of the stages too, and reads them before it writes anything.
        options, rest = known(self, *args, **kwargs)
        if self.prog == "hcml demo":
            Plan.from_words(rest)
            raise Understood
        return options, rest

    stopping(argparse.ArgumentParser)
    stopping(jsonargparse.ArgumentParser)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known)
    if words[0] in ("--help", "--version", "-h"):
        assert main(words) == 0
    else:
        with pytest.raises((Understood, SystemExit)) as stopped:
            main(words)
        assert stopped.type is Understood or stopped.value.code == 0


def test_other_commands_name_existing_targets_and_files():
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page, words in ALL:
        command = words[0]
        if command == "make":
            assert words[1] in targets, f"{page}: make {words[1]}"
        elif command == "wandb":
            assert words[1] in ("sweep", "agent", "login", "sync")
            if words[1] == "sweep":
                assert (REPOSITORY / words[2]).is_file(), f"{page}: {words[2]}"
        elif command in ("python", ".venv/bin/python"):
            files = [word for word in words[1:] if word.endswith(".py")]
            assert files or words[1] == "-m", f"{page}: {' '.join(words)}"
            assert all((REPOSITORY / file).is_file() for file in files)
        elif command not in ("hcml", "srun", "torchrun", *SHELL):
            assert Path(command).name in ("pip", "gpu.sh"), f"{page}: {command} is not looked at"


def test_commands_configs_and_links_in_the_text_exist():
    known = {*TRAINER_COMMANDS, *TOOL_COMMANDS, "COMMAND", "--help", "--version"}
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`hcml (\S+?)[` ]", text):
            assert set(name.split("|")) <= known, f"{page.name}: hcml {name}"
        for config in re.findall(r"`configs/([\w/]+\.yaml)`", text):
            assert find_config(config)
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            made = link.startswith("generated/")
            assert made or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_on_a_page_uses_existing_names_and_arguments(page: Path):
    """Imports from this package work, and its constructors take the arguments that are given."""
    import inspect

    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hcml_lightning"):
                module = importlib.import_module(str(node.module))
                assert all(getattr(module, alias.name) is not None for alias in node.names)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                made = getattr(hcml_lightning, node.func.id, None)
                if made is not None:
                    given = {word.arg for word in node.keywords if word.arg}
                    taken = {
                        name
                        for parent in made.__mro__
                        for name in inspect.signature(parent.__init__).parameters
                    }
                    assert given <= taken, f"{page.name}: {given - taken}"


def test_example_of_a_data_set_trains(
    synthetic_root: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs" / "examples"))
    root = synthetic_root("folder")
    listed = tmp_path / "videos"
    listed.symlink_to(root)
    rows = [
        f"videos/{path.relative_to(root)},{path.parent.name},{path.parts[-3]}"
        for path in sorted(root.rglob("*.mp4"))
    ]
    (tmp_path / "videos.csv").write_text("path,class,split\n" + "\n".join(rows) + "\n")
    data = ["--data=listed_videos.ListedVideos", f"--data.root={tmp_path}"]
    assert main(["data", "check", *data]) == 0
    words = ["fit", "-c", "stages/1_flow.yaml", *data, "--model.backbone=r2d_tiny"]
    words += ["--data.num_workers=0", "--data.batch_size=2", "--data.clip_length=4"]
    words += ["--data.short_side=[32, 32]", "--data.crop_size=32", "--data.test_crop_size=32"]
    words += ["--data.flip=none", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    assert main([*words, "--trainer.fast_dev_run=true"]) == 0
    # Its csv lists no test videos, which is reported before the first stage runs.
    common = [word for word in words[3:] if not word.startswith("--trainer.logger")]
    for stages in ([], ["--stages=baseline,test"]):
        with pytest.raises(SystemExit, match=r"'test' \(nothing has been run\): .* no videos"):
            main(["progressive", f"--run_dir={tmp_path / 'run'}", *stages, *common])
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_example_of_a_backbone_learns(monkeypatch: pytest.MonkeyPatch):
    from hcml_lightning.models import backbones

    # A copy, since the example adds a row to it.
    monkeypatch.setattr(backbones, "BACKBONES", dict(backbones.BACKBONES))
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs" / "examples"))
    before, after = importlib.import_module("small_backbone").first_step()
    assert after < before


def test_page_of_departures_lists_every_remark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    departures = importlib.import_module("departures")
    found = list(departures.remarks(REPOSITORY))
    pattern = "# Departure:|# Unstated in the paper:"
    grep = subprocess.run(
        ["grep", "-rnE", pattern, "src", "configs", "--include=*.py", "--include=*.yaml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    # Without the package's link to configs/.
    lines = [line.split(":", 2)[:2] for line in grep.stdout.splitlines()]
    places = {(file, int(number)) for file, number in lines if "lightning/configs" not in file}
    assert {(remark.file, remark.line) for remark in found} == places
    text = "x = 1\n# Departure: a mean,\n# not a sum.\ny = 2\n    # Unstated in the paper: ζ.\n"
    assert list(departures.remarks_of(text, "a.py")) == [
        departures.Remark("Departure", "a.py", 2, "A mean, not a sum."),
        departures.Remark("Unstated in the paper", "a.py", 5, "ζ."),
    ]
    departures.write_departures(REPOSITORY, tmp_path / "page.md")
    assert all(remark.text in (tmp_path / "page.md").read_text() for remark in found)


def test_versions_agree():
    version = hcml_lightning.__version__
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == version
    assert f"## [{version}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_defaults_beside_the_symbols_of_the_paper_match_the_code():
    page = (REPOSITORY / "docs/configuration.md").read_text()
    rows = re.findall(r"^\|[^|]+\|[^|]+\| `--model\.(\w+)` \| ([\d.]+)", page, re.MULTILINE)
    taken = {
        **inspect.signature(MotionTask).parameters,
        **inspect.signature(RecognitionTask).parameters,
    }
    shown = {name: float(value) for name, value in rows}
    defaults = {name: taken[name].default for name in shown}
    assert shown.pop("contrast_weights") == pytest.approx(defaults.pop("contrast_weights")[0])
    assert len(shown) == 5
    assert shown == defaults
