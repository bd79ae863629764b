"""Every experiment, as small as it can be, and the tables and pages made of its results."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import yaml
from PIL import Image

from hcml_lightning.cli import main
from hcml_lightning.data.synthetic import write_synthetic
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.stages import TRAINING, Stage
from hcml_lightning.tools.training.parsed_words import ParsedWords

FOLDER = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(FOLDER))

import figure2  # noqa: E402
import figure3  # noqa: E402
import figure4  # noqa: E402
import ridge  # noqa: E402
import run  # noqa: E402
import summarise  # noqa: E402
import table1  # noqa: E402
import table2  # noqa: E402
import table7  # noqa: E402
from labels import with_share_of_labels  # noqa: E402
from protocol import ACCURACY, QUANTITY, Protocol, read_rows, write_rows  # noqa: E402

SMALL = (
    *("--data.short_side", "[32, 34]", "--data.crop_size", "32", "--data.test_crop_size", "32"),
    *("--data.test_clips", "1", "--data.batch_size", "4", "--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "1", "--trainer.check_val_every_n_epoch", "1"),
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    folder = tmp_path_factory.mktemp("experiments")
    write_synthetic(
        folder / "data/tiny", num_train=4, num_val=1, num_frames=12, height=32, width=32
    )
    return Protocol(
        "cpu", folder / "data", folder / "runs", folder / "out", extras=SMALL, launch=main
    )


def test_further_options_reach_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Protocol] = []
    monkeypatch.setattr(table2, "run", lambda protocol, *_, **__: asked.append(protocol))
    words = ["run.py", "--data", str(tmp_path), "table2", "--seeds", "0", "--flow.model.lr=1"]
    monkeypatch.setattr(sys, "argv", words)
    run.main()
    assert [protocol.extras for protocol in asked] == [("--flow.model.lr=1",)]


def test_without_a_name_all_experiments_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr(run, "_run", lambda name, *_: asked.append(name))
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", str(tmp_path), "--seeds", "0"])
    run.main()
    assert asked == list(run.EXPERIMENTS)


def test_every_table_and_figure_is_made(protocol: Protocol, monkeypatch: pytest.MonkeyPatch):
    where = (protocol, "tiny", 1, 0)
    ridge.run(protocol, "tiny", 1)
    table2.run(*where)
    table2.run(*where, methods=["full"], variant="dense")
    table2.run(*where, variant="control")
    table7.run(*where, longer=True)
    figure2.run(*where)
    table1.run(*where)
    figure4.run(*where)
    figure3.run(protocol, 0, figure3.Corpus(1, 1, 10, 32))

    results = protocol.results / "results.csv"
    rows = read_rows(results)
    assert {(row["experiment"], row["method"]) for row in rows} == {
        *(("table2", method) for method in ("baseline", "motion", "full")),
        ("dense", "full"),
        ("control", "motion"),
        *(("table7", method) for method in ("random", "random, for longer", "self-supervised")),
        *(("figure2", method) for method in ("level 0", "levels 0, 1")),
    }
    strides = {
        name: yaml.safe_load(
            next(protocol.runs.rglob(f"{name}/recognition/config.yaml")).read_text()
        )
        for name in ("full", "full_dense")
    }
    assert [strides[name]["data"]["init_args"]["frame_stride"] for name in strides] == ["spread", 2]
    assert all(0 <= float(row["top1"]) <= float(row["top5"]) <= 100 for row in rows)
    measured = read_rows(protocol.results / "measurements.csv")
    assert {row["experiment"] for row in measured} == {"ridge", "table1", "figure3", "figure4"}
    (ridge_top1,) = (float(row["value"]) for row in measured if row["experiment"] == "ridge")
    for name in ("figure3_cpu.png", "figure4_tiny_cpu.png"):
        with Image.open(protocol.results / "figures" / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 10

    # What is already in the tables is not run again.
    before = results.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("run once more")

    monkeypatch.setattr(Protocol, "run", refuse)
    table2.run(*where)
    assert results.read_bytes() == before

    text = summarise.make(protocol.results)
    assert f"{float(rows[0]['top1']):.1f}" in text
    assert f"A ridge classifier on frame differences has {ridge_top1:.1f}" in text


def test_option_of_an_experiment_reaches_the_settings_of_its_stage(
    protocol: Protocol, tmp_path: Path
):
    words = (*SMALL, "--flow.model.smoothness_weight", "0.07")
    changed = replace(protocol, runs=tmp_path / "runs", results=tmp_path / "out", extras=words)
    figure3.run(changed, 1, figure3.Corpus(1, 1, 10, 32))
    (stage,) = changed.runs.rglob("flow/settings.json")
    assert stage.parent.parent.name == "flow_0"
    assert '"model.smoothness_weight": 0.07' in stage.read_text()
    measured = read_rows(changed.results / "measurements.csv")
    assert {(row["experiment"], row["seed"]) for row in measured} == {("figure3", "1")}
    # Only seed 0 gets a picture.
    assert not (changed.results / "figures").exists()


def test_share_of_the_labels_takes_videos_of_every_class(protocol: Protocol, tmp_path: Path):
    with_share_of_labels(protocol.data / "tiny", tmp_path / "few", 25)
    lists = tmp_path / "few/ucfTrainTestlist"
    names = (lists / "trainlist01.txt").read_text().split("\n")[:-1]
    assert len(names) == len({name.split("/")[0] for name in names}) == 8
    full = (protocol.data / "tiny/ucfTrainTestlist/testlist01.txt").read_text()
    assert (lists / "testlist01.txt").read_text() == full


def test_parallel_commands_may_make_the_same_share_of_the_labels(
    protocol: Protocol, tmp_path: Path
):
    start = Barrier(8)

    def make(_: int) -> None:
        start.wait()
        with_share_of_labels(protocol.data / "tiny", tmp_path / "few", 25)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert (tmp_path / "few/ucfTrainTestlist/trainlist01.txt").is_file()


def test_a_row_replaces_the_one_that_it_repeats(tmp_path: Path):
    table = tmp_path / "results.csv"
    row = dict.fromkeys(ACCURACY, "x")
    write_rows(table, ACCURACY, [row | {"seed": 0, "top1": 1}])
    write_rows(table, ACCURACY, [row | {"seed": 1, "top1": 2}])
    write_rows(table, ACCURACY, [row | {"seed": 0, "top1": 3}])
    with table.open(newline="") as file:
        assert [r["top1"] for r in csv.DictReader(file)] == ["3", "2"]


def test_report_gives_mean_and_deviation_and_says_what_is_missing(tmp_path: Path):
    common = dict.fromkeys(ACCURACY, "x") | {
        **{"experiment": "table2", "dataset": "utdmhad_depth27", "split": 1, "top5": 90},
        **{
            "backbone": "r2d_tiny",
            "train_top1": 80,
            "epochs": 60,
            "wall_s": 100,
            "protocol": "cpu",
        },
    }
    for seed, top1 in enumerate((60, 62, 64)):
        row = common | {"method": "full", "seed": seed, "top1": top1}
        write_rows(tmp_path / "results.csv", ACCURACY, [row])
    text = summarise.make(tmp_path)
    assert "62.0 ± 2.0" in text
    assert "3 seeds" in text
    assert "not measured" in text


def test_results_page_matches_the_stored_tables(repository: Path):
    written = (repository / "RESULTS.md").read_text(encoding="utf-8")
    assert written == summarise.make(FOLDER), "python experiments/summarise.py writes it anew"


def test_methods_are_compared_over_the_seeds_that_both_have(tmp_path: Path):
    common = dict.fromkeys(ACCURACY, 0) | {
        **{"experiment": "table7", "dataset": "few", "split": 1, "protocol": "cpu"},
        "backbone": "r2d_tiny",
        "epochs": 120,
    }
    found = {"random": (50, 20, 20), "self-supervised": (60,), "random, for longer": (57,)}
    for method, values in found.items():
        for seed, top1 in enumerate(values):
            row = common | {"method": method, "seed": seed, "top1": top1}
            write_rows(tmp_path / "results.csv", ACCURACY, [row])
    text = summarise.make(tmp_path)
    # Not +30: the other seeds of random weights are worse, and have no counterpart.
    assert "| few, split 1 | self-supervised | 120 | 60.0 | 1 seed | +10.0 |" in text
    assert "| few, split 1 | random, for longer | 120 | 57.0 | 1 seed | +7.0 |" in text
    assert "changes top-1 by +3.0 points on average (higher in 1 of 1 runs)" in text


def test_full_method_is_compared_with_labels_for_as_many_epochs(tmp_path: Path):
    common = dict.fromkeys(ACCURACY, 0) | {
        **{"dataset": "mine", "split": 2, "protocol": "cpu", "backbone": "r2d_tiny"},
    }
    found = {
        ("table2", "motion", 60): (50, 52),
        ("control", "motion", 168): (60, 70),
        ("table2", "full", 60): (66, 68),
    }
    for (experiment, method, epochs), values in found.items():
        row = common | {"experiment": experiment, "method": method, "epochs": epochs}
        rows = [row | {"seed": seed, "top1": top1} for seed, top1 in enumerate(values)]
        write_rows(tmp_path / "results.csv", ACCURACY, rows)
    text = summarise.make(tmp_path)
    cells = "51.0 ± 1.4 (60 epochs) | 65.0 ± 7.1 (168 epochs) | 67.0 ± 1.4"
    assert f"| mine, split 2 | {cells} | +2.0 (higher in 1 of 2 seeds) |" in text
    assert "the full method differs by +2.0 points on average (higher in 1 of 2 runs)" in text


def test_protocols_are_reported_separately(tmp_path: Path):
    common = dict.fromkeys(QUANTITY, "x") | {
        **{"experiment": "figure4", "dataset": "mine", "split": 1, "seed": 0},
        **{"backbone": "r2d_tiny", "quantity": "moving mass at res5"},
    }
    for protocol, values in (("cpu", (5, 6)), ("gpu", (40, 44))):
        for method, value in zip(("baseline", "motion"), values, strict=True):
            row = common | {"protocol": protocol, "method": method, "value": value}
            write_rows(tmp_path / "measurements.csv", QUANTITY, [row])
    text = summarise.make(tmp_path)
    assert "mine at res5: +1.0 points" in text
    assert "mine at res5: +4.0 points" in text


@pytest.mark.parametrize("what", ["table1", "figure4"])
def test_splits_are_reported_separately(tmp_path: Path, what: str):
    methods = {"table1": "action level 0", "figure4": "motion"}
    quantities = {"table1": "top1", "figure4": "moving mass at res5"}
    common = dict.fromkeys(QUANTITY, "x") | {
        **{"experiment": what, "dataset": "mine", "protocol": "cpu", "seed": 0},
        **{"method": methods[what], "quantity": quantities[what]},
    }
    for split, value in ((1, 10), (2, 30)):
        row = common | {"split": split, "value": value}
        write_rows(tmp_path / "measurements.csv", QUANTITY, [row])
    text = summarise.make(tmp_path)
    assert "| mine, split 1 |" in text
    assert "| mine, split 2 |" in text
    # There is no picture of these.
    assert "figure4_mine" not in text


def test_commands_of_the_readme_have_existing_settings(
    synthetic_root: Callable[[str], Path],
):
    """The shell expands them and every stage parses the result; none is run."""
    blocks = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    script = "\n".join(
        ['python() { echo "$@"; }', "pip() { :; }; mkdir() { :; }; cp() { :; }", *blocks]
    )
    said = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    commands = [line.split() for line in said.stdout.splitlines()]
    assert [file for file, *_ in commands if file != "experiments/run.py"] == [
        "experiments/summarise.py"
    ]
    given = {
        tuple(run._parser().parse_known_args(words)[1])
        for file, *words in commands
        if file.endswith("run.py")
    }
    assert len(given) > 5
    shared = ["-c", str(FOLDER / "configs/cpu.yaml"), f"--data.root={synthetic_root('ucf101')}"]
    # There are eight videos.
    shared.append("--data.batch_size=8")
    plans = [Plan.from_words([*shared, *words]) for words in given]
    # Most options concern a single stage, so the words of the other stages repeat and are parsed once.
    for words in {tuple(plan.words(stage)) for plan in plans for stage in TRAINING.values()}:
        ParsedWords(list(words)).try_constructors()


@pytest.mark.parametrize("stage", [*TRAINING.values()], ids=lambda stage: stage.name)
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_configs_of_both_protocols_are_parsed_by_every_stage(
    name: str, stage: Stage, capsys: pytest.CaptureFixture[str]
):
    overlays = sorted((FOLDER / "configs").glob(f"{name}*.yaml"))
    assert len(overlays) == 3
    words = [word for path in overlays for word in ("-c", str(path))]
    plan = Plan.from_words([*words, "--data.root", "anywhere"])
    with pytest.raises(SystemExit) as ended:
        main(["fit", *plan.words(stage), "--print_config"])
    assert ended.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["trainer"]["accelerator"] == name
