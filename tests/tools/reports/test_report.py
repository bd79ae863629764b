"""The report of a run: what it shows, that names in it are harmless, and that a browser draws it."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tests.conftest import TINY

from hcml_lightning.cli import main
from hcml_lightning.scores import remarks
from hcml_lightning.tools.recipe.plan import Plan
from hcml_lightning.tools.recipe.progressive import run_plan
from hcml_lightning.tools.reports.charts import MOST_POINTS, charts, thinned, ticks
from hcml_lightning.tools.reports.report import _left_out
from hcml_lightning.tools.reports.settings import differences
from hcml_lightning.tools.reports.stage_runs import read_run, read_runs
from hcml_lightning.tools.run.video_results import VideoResult, write_predictions

# Two of the four stages are enough to look at.
pytestmark = pytest.mark.filterwarnings("ignore:init_from.*Run the stages between")

EVIL = "<img src=x onerror=alert(1)>"
# Asks the page in the browser what it drew and what it loaded.
QUESTIONS = """
<script>
addEventListener("load", () => {
  const drawn = [...document.querySelectorAll("svg path, svg rect")].filter(
    (e) => { const b = e.getBBox(); return b.width + b.height > 0; });
  const answers = {
    broken: [...document.images].filter((i) => !(i.naturalWidth > 1)).length,
    images: document.images.length,
    drawn: drawn.length,
    loaded: performance.getEntriesByType("resource").map((e) => e.name),
    wider: document.documentElement.scrollWidth - innerWidth,
  };
  document.body.dataset.answers = JSON.stringify(answers);
});
</script>
"""


class Tags(HTMLParser):
    """Collects tags and their attributes, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


@pytest.fixture(scope="module")
def run(synthetic_root: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three stages, on videos of which one class has an evil name."""
    folder = tmp_path_factory.mktemp("reported")
    videos = shutil.copytree(synthetic_root("folder"), folder / "videos")
    for split in ("train", "val"):
        (videos / split / "up").rename(videos / split / EVIL)
    words = [*TINY, "--data=VideoFolderDataModule", f"--data.root={videos}"]
    words += ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    run_plan(Plan.from_words(words), ["flow", "recognition", "test"], folder / "run", main)
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    assert main(["report", str(run)]) == 0
    return (run / "report.html").read_text()


def test_report_shows_all_parts_of_the_run(run: Path, page: str):
    test = json.loads((run / "test" / "test.json").read_text())
    assert f"<b>{100 * test['metrics']['test/top1']:.1f} %</b>" in page
    for heading in ("Stages", "Curves", "Flow", "Test", "Settings", "Versions and machine"):
        assert re.search(rf"<h2[^>]*>{heading}</h2>", page), heading
    for title in (
        "photometric error (Eq. 3) within the frame",
        "top-1",
        "loss, all terms",
        "learning rate",
    ):
        assert f"<figcaption>{title}</figcaption>" in page
    assert re.search(r"estimated after flow, up to [0-9.e-]+ cells", page)
    assert "estimated after recognition" in page
    assert page.count("data:image/jpeg") == 2 * 4
    assert page.count("data:image/png") == 1 + 2 * 4
    # The matrix holds every tested video.
    counts = [int(n) for n in re.findall(r"predicted as [^<]*: (\d+) of \d+</title>", page)]
    assert sum(counts) == 8
    assert "max_epochs: 2" in page
    assert test["environment"]["torch"] in page


def test_evil_names_are_shown_as_text(page: str):
    assert EVIL not in page
    assert html.escape(EVIL) in page
    tags = Tags()
    tags.feed(page)
    assert "script" not in {tag for tag, _ in tags.found}
    attributes = [pair for _, pairs in tags.found for pair in pairs]
    assert {name for name, _ in attributes if name.startswith("on")} == set()
    sources = [value for name, value in attributes if name in ("src", "href", "data", "action")]
    assert sources
    assert all(value.startswith("data:image/") for value in sources)


def test_report_of_one_stage_names_missing_data_and_metrics(run: Path, tmp_path: Path):
    stage = shutil.copytree(run / "flow", tmp_path / "elsewhere")
    config = yaml.safe_load((stage / "config.yaml").read_text())
    config["data"]["init_args"]["root"] = "/no/such <folder>"
    config["trainer"]["logger"] = [{"class_path": "pytorch_lightning.loggers.WandbLogger"}]
    shutil.rmtree(stage / "version_0")
    (stage / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["report", str(stage), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<h1>elsewhere</h1>" in page
    assert "No flow pictures: " in page
    assert "/no/such &lt;folder&gt;" in page
    assert "elsewhere has no metrics.csv: it logged to WandbLogger." in page
    assert '<h2 id="test' not in page


def test_several_runs_share_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    page = tmp_path / "page.html"
    assert main(["report", str(run), str(other), f"--output={page}", "--flow_videos=0"]) == 0
    groups = {stage.group for stage in read_runs([run, other])}
    assert groups == {run.as_posix(), other.as_posix()}
    text = page.read_text(encoding="utf-8")
    assert all(group in text for group in groups)
    with pytest.raises(SystemExit):
        main(["report", str(run), str(other)])
    assert (
        "several runs have no default --output; pass the file to write" in capsys.readouterr().err
    )


def test_runs_are_compared_by_their_settings(run: Path, tmp_path: Path):
    first, second = tmp_path / "a" / "version_0", tmp_path / "a" / "version_1"
    for folder in (first, second):
        shutil.copytree(run / "flow", folder)
    config = next(second.rglob("config.yaml"))
    settings = yaml.safe_load(config.read_text())
    settings["model"]["init_args"] |= {"lr": 0.125, "init_from": "other.ckpt"}
    config.write_text(yaml.safe_dump(settings))
    page = tmp_path / "page.html"
    words = ["report", str(first), str(second), f"--output={page}", "--flow_videos=0"]
    assert main(words) == 0
    stages = read_runs([first, second])
    assert [(s.group, s.name) for s in stages] == [
        ((tmp_path / "a").as_posix(), name) for name in ("version_0", "version_1")
    ]
    (found,) = differences(stages)
    before = stages[0].settings["model"]["init_args"]["lr"]
    assert (found.stage, found.rows) == ("FlowTask", [("model.lr", [before, 0.125])])
    assert "Differences: FlowTask" in page.read_text()
    assert differences(read_run(run)) == []


def test_copies_of_configs_are_no_stages(tmp_path: Path):
    for stage in ("flow", "wandb/run-1/files"):
        (tmp_path / stage).mkdir(parents=True)
        (tmp_path / stage / "config.yaml").touch()
    assert [stage.name for stage in read_run(tmp_path)] == ["flow"]


def test_checkpoint_of_another_release_costs_only_the_pictures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = shutil.copytree(run / "flow", tmp_path / "flow")
    last = stage / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last)
    checkpoint["hyper_parameters"]["zetta"] = 1
    torch.save(checkpoint, last)
    result = json.loads((stage / "fit.json").read_text())
    (stage / "fit.json").write_text(json.dumps({**result, "checkpoint": str(last)}))
    assert main(["report", str(stage)]) == 0
    page = (stage / "report.html").read_text()
    assert "No flow pictures: " in page
    assert "does not fit the model that this release builds from its settings" in page

    def bug(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("hcml_lightning.tools.reports.flow.flow_picture", bug)
    with pytest.raises(KeyError, match="a bug"):
        main(["report", str(stage)])


def test_report_compares_and_warns_as_the_log_does(tmp_path: Path):
    flow = {"val/photometric": 0.05, "val/photometric_zero": 0.06, "val/valid": 0.8}
    contrast = {"val/contrast_l1": 7.5, "val/contrast_l1_chance": 6.2383246250395077}
    contrast["val/contrast_l1_top1"] = 0.001
    for name, metrics in {"flow": flow, "contrast1": contrast}.items():
        (tmp_path / name).mkdir()
        record = {"task": "FlowTask", "seconds": 1, "epochs": 1, "metrics": metrics}
        (tmp_path / name / "fit.json").write_text(json.dumps(record))
        rows = ["epoch,step," + ",".join(metrics), "0,9," + ",".join(map(str, metrics.values()))]
        (tmp_path / name / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert main(["report", str(tmp_path)]) == 0
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "val/photometric ÷ valid 0.0625 (zero flow 0.06)" in page
    assert "val/photometric 0.05" not in page
    assert "val/contrast_l1_top1 0.001 (chance 0.001953)" in page
    said = [remark for metrics in (flow, contrast) for remark in remarks(metrics)]
    assert len(said) == 2
    assert all(page.count(f"Warning: {remark}</p>") == 1 for remark in said)
    drawn = re.findall(r'<span class="(?:val|reference)">([^<]*)</span>', page)
    assert {"validation 0.0625", "zero flow, validation 0.06"} <= set(drawn)
    assert "chance, validation 0.001953" in drawn


def test_unfinished_run_is_reported_as_unfinished(run: Path, tmp_path: Path):
    stage = shutil.copytree(run / "flow", tmp_path / "half" / "flow")
    for name in ("fit.json", "done.json"):
        (stage / name).unlink()
    assert main(["report", str(tmp_path / "half")]) == 0
    page = (tmp_path / "half" / "report.html").read_text()
    assert "not finished" in page
    assert "photometric error" in page
    assert "latest values" in page
    assert "final" not in page.partition('<h2 id="settings">')[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "run' does not exist; pass the folder of a run"),
        ({"notes.txt": ""}, "does not hold a run; expected a folder with settings.json"),
        ({"fit.json": '{"task": '}, r"fit\.json cannot be read"),
        ({"test.json": "{}"}, r"test\.json cannot be read: it has no 'task'"),
        ({"config.yaml": "", "predictions.csv": "a,b\n"}, "expected the columns video_id"),
    ],
)
def test_folder_that_is_no_run_is_refused_with_the_reason(
    files: dict[str, str], message: str, tmp_path: Path
):
    folder = tmp_path / "run"
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    with pytest.raises(SystemExit, match=message):
        main(["report", str(folder)])


def test_report_takes_a_checkpoint_for_its_run_and_no_other_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(run / "flow", tmp_path / "flow")
    last = folder / "checkpoints" / "last.ckpt"
    assert main(["report", str(last), "--flow_videos=0"]) == 0
    assert capsys.readouterr().out == f"1 stage -> {folder / 'report.html'}\n"
    assert "<h1>flow</h1>" in (folder / "report.html").read_text()
    with pytest.raises(SystemExit, match=r"fit\.json' is a file; pass the folder of a run, or a"):
        main(["report", str(folder / "fit.json")])


@pytest.mark.parametrize(("classes", "names"), [(6, ["top-1"]), (10, ["top-1", "top-5"])])
def test_top5_is_no_headline_among_few_classes(classes: int, names: list[str], tmp_path: Path):
    metrics = {"test/top1": 0.5, "test/top5": 0.875}
    record = {"task": "RecognitionTask", "seconds": 1, "metrics": metrics}
    (tmp_path / "test.json").write_text(json.dumps(record))
    videos = [VideoResult(str(i), f"c{i % classes}", "c0", 0.5) for i in range(20)]
    write_predictions(tmp_path / "predictions.csv", videos)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<div class="card"><b>[^<]*</b><span>([^<]*)</span>', page) == names
    assert "test/top5 0.875" in page


def test_charts_hold_their_curves_and_thinning_keeps_the_mean():
    curves = {
        "val/epe": [(1.0, 4.0), (2.0, 2.0)],
        "val/epe_zero": [(2.0, 6.0)],
        "test/epe": [(2.0, 1.0)],
        "lr-SGD": [(1.0, 0.1)],
    }
    error, rate = charts(curves)
    assert (error.title, error.main) == ("end-point error of the flow, cells", True)
    assert [(line.kind, line.path) for line in error.lines] == [
        ("reference", "M0 0L300 0"),
        ("val", "M150 75L300 150"),
    ]
    assert [text for _, text in error.y_ticks] == ["2", "3", "4", "5", "6"]
    assert (rate.title, rate.main) == ("learning rate", False)

    same = [(1.0, 4.0), (2.0, 2.0)]
    names = ["train/loss", "val/loss", "train/classification", "val/classification"]
    lines = {c.title: [line.kind for line in c.lines] for c in charts(dict.fromkeys(names, same))}
    assert sorted(map(len, lines.values())) == [1, 2]

    long = [(float(x), float(x % 7)) for x in range(10 * MOST_POINTS)]
    short = thinned(long)
    assert len(short) == MOST_POINTS
    assert sum(y for _, y in short) / len(short) == pytest.approx(
        sum(y for _, y in long) / len(long)
    )


@pytest.mark.parametrize(("low", "high"), [(0, 1e-6), (-3, 5), (0.999, 1), (0, 200), (2e5, 3e7)])
def test_ticks_are_few_and_inside(low: float, high: float):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert found == sorted(set(found))
    assert low - 1e-9 * (high - low) <= found[0] <= found[-1] <= high + 1e-9 * (high - low)


def test_report_of_many_classes_stays_small(tmp_path: Path):
    videos = [VideoResult(str(i), f"c{i % 400}", f"c{i * 7 % 400}", 0.5) for i in range(4000)]
    (tmp_path / "test.json").write_text('{"task": "RecognitionTask", "seconds": 1, "metrics": {}}')
    write_predictions(tmp_path / "predictions.csv", videos)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "380 more" in page
    assert len(page) < 2e6


def test_stages_are_read_in_their_order(run: Path):
    stages = read_run(run)
    assert [stage.name for stage in stages] == ["flow", "recognition", "test"]
    assert [stage.task for stage in stages] == ["FlowTask", "RecognitionTask", "RecognitionTask"]


def test_browser_draws_the_report_without_network(run: Path, page: str, tmp_path: Path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    # The page allows neither scripts nor anything from elsewhere, and the console would tell what was refused; the
    # copy used here allows the script that asks.
    asked = tmp_path / "asked.html"
    allowed = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    asked.write_text(allowed.replace("</body>", f"{QUESTIONS}</body>"))
    dom, said = browse(chromium, asked, tmp_path, "--dump-dom")
    assert "CONSOLE" not in said, said
    answers = json.loads(html.unescape(re.search(r'data-answers="([^"]*)"', dom)[1]))
    assert answers["images"] == 17
    assert answers["broken"] == 0
    assert answers["drawn"] > 30
    assert answers["loaded"] == []
    assert answers["wider"] <= 0

    shot = tmp_path / "shot.png"
    options = (f"--screenshot={shot}", "--window-size=1200,2400", "--hide-scrollbars")
    _, said = browse(chromium, run / "report.html", tmp_path, *options)
    assert "CONSOLE" not in said, said
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(2**24) or []
    assert (11, 107, 203) in {colour for _, colour in colours}
    assert len(colours) > 100


def browse(chromium: str, file: Path, folder: Path, *options: str) -> tuple[str, str]:
    """Open a file in a new profile, and return what the browser printed."""
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
            # Host names lead nowhere, so that the browser itself fetches nothing.
            *(f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *options,
            file.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(("seen", "said"), [(3, ", 3 of 8 videos"), (8, "")])
def test_report_says_how_many_videos_a_partial_test_saw(seen: int, said: str, tmp_path: Path):
    videos = {"seen": seen, "in_split": 8}
    record = {"task": "RecognitionTask", "seconds": 1, "metrics": {}, "videos": videos}
    (tmp_path / "test.json").write_text(json.dumps(record))
    assert _left_out(read_run(tmp_path)[0]) == said
