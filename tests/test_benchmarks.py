"""Every benchmark runs, checks what it times, and records all its columns."""

import csv
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

COLUMNS = (
    "op,direction,shape,dtype,device,provider,median_ms,q20_ms,q80_ms,peak_mb,roofline_ms,"
    "torch,triton,commit,date"
)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


@pytest.mark.parametrize(
    ("name", "shape", "patterns", "directions"),
    [
        ("cost_volume", "1x4x2x9x8", ["ours*", "eager*"], ["forward", "backward", "both"]),
        ("contrastive_loss", "60x40x8", ["ours", "eager"], ["forward", "backward", "both"]),
        ("train_step", "2x3x4x32x32", ["ours flow"], ["forward", "backward", "both"]),
        ("inference", "1x3x4x32x32", ["ours", "resnet50"], ["forward"]),
    ],
)
def test_benchmark_records_its_rows(
    name: str,
    shape: str,
    patterns: list[str],
    directions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tmp_path / f"{name}.csv"
    words = ["--shapes", shape, "--repeats", "2", "--output", str(table), "--providers", *patterns]
    monkeypatch.setattr(sys, "argv", [name, *words])
    importlib.import_module(name).main()
    lines = table.read_text().splitlines()
    assert lines[0] == COLUMNS
    rows = list(csv.DictReader(lines))
    assert [row["direction"] for row in rows] == directions * (len(rows) // len(directions))
    for row in rows:
        assert row["shape"] == shape
        assert row["torch"] == torch.__version__
        assert 0 < float(row["q20_ms"]) <= float(row["median_ms"]) <= float(row["q80_ms"])


def test_provider_with_wrong_results_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    measure = importlib.import_module("measure")
    right, wrong = [torch.ones(3)], [torch.tensor([1.0, 1.0, torch.nan])]

    class CompilerError(Exception):
        """Like Triton's, which has no base class of its own to be recognised by."""

    def breaks() -> list[torch.Tensor]:
        raise CompilerError("out of resources")

    checks = {"other": lambda: wrong, "broken": breaks, "ours": lambda: right}
    assert measure.only_right(checks, [torch.ones(3).double()]) == ["ours"]
    told = capsys.readouterr().err
    assert "other is left out: other is wrong by nan" in told
    assert "broken is left out: out of resources" in told
    with pytest.raises(ArithmeticError, match="ours is wrong"):
        measure.only_right({"ours": lambda: wrong}, [torch.ones(3).double()])


def test_peak_memory_is_what_a_pass_needs_at_once() -> None:
    measure = importlib.import_module("measure")
    work = measure.Work(lambda: torch.ones(1 << 24) + torch.ones(1 << 24))
    assert measure.peak_mb(work, "cpu") == pytest.approx(3 * (1 << 26) / 1e6, rel=0.1)


def test_roofline_draws_recorded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, picture = tmp_path / "cost_volume.csv", tmp_path / "roofline.png"
    numbers = "1,1,1,1,0.1,2.11.0,3.6.0,abc,2026-01-01"
    rows = [f"cost_volume,{d},1x4x2x9x8,float32,cpu,ours,{numbers}" for d in ("forward", "both")]
    table.write_text("\n".join([COLUMNS, *rows]))
    words = ["roofline", "--results", str(table), "--output", str(picture)]
    monkeypatch.setattr(sys, "argv", words)
    importlib.import_module("roofline").main()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_targets_are_judged_by_the_newest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = "cost_volume,both,8x32x16x56x56,bfloat16,a GPU"
    numbers = "1,1,{mb},0.1,2.11.0,3.6.0,abc,2026-01-01"
    rows = [
        f"{subject},ours,9,{numbers.format(mb=5)}",
        f"{subject},ours,2,{numbers.format(mb=5)}",
        f"{subject},eager,30,{numbers.format(mb=90)}",
        f"{subject},localcorr,19,{numbers.format(mb=9)}",
    ]
    (tmp_path / "cost_volume.csv").write_text("\n".join([COLUMNS, *rows]))
    monkeypatch.setattr(sys, "argv", ["targets", "--results", str(tmp_path)])
    importlib.import_module("targets").main()
    name = "cost_volume 8x32x16x56x56 bfloat16"
    assert capsys.readouterr().out.splitlines() == [
        f"ok         15 ≥ 10     {name}: times faster than eager",
        f"MISS      9.5 ≥ 10     {name}: times faster than localcorr",
        f"MISS   0.0556 ≤ 0.05   {name}: share of eager's memory",
    ]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tried on the GPU itself")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_other_tilings_give_the_same_numbers(direction: str) -> None:
    tune = importlib.import_module("tune")
    layout = torch.channels_last_3d
    features, grad = tune.drawn((1, 3, 1, 3, 4), torch.float32, "cpu", layout, seed=0)
    target = grad if direction == "forward" else features
    results = [
        tune.launch(direction, change, features, grad, torch.full_like(target, torch.nan))
        for change in ({}, {"ROWS": 1, **({"NY": 2} if direction == "forward" else {"BC": 16})})
    ]
    torch.testing.assert_close(results[1], results[0])


def test_startup_records_seconds_and_ratio_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = importlib.import_module("startup")
    program = ("-c", "sum(range(10**6))")
    monkeypatch.setattr(startup, "PROGRAMS", {startup.TORCH: program, "python": ("-c", "pass")})
    table = tmp_path / "startup.csv"
    monkeypatch.setattr(sys, "argv", ["startup", "--repeats", "1", "--output", str(table)])
    startup.main()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["what"] for row in rows] == ["import torch", "python"]
    assert float(rows[0]["of_torch"]) == 1
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_soak_refuses_an_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soak = importlib.import_module("soak")
    monkeypatch.setattr(sys, "argv", ["soak.py", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        soak.run()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"soak.py: error: --folder {tmp_path} is there already")
    assert not list(tmp_path.iterdir())


def test_damage_is_counted_for_each_codec_and_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = importlib.import_module("damage_by_codec")
    monkeypatch.setattr(codecs, "FRAMES", 4)
    table = tmp_path / "damage.csv"
    words = ["damage_by_codec", "--variants=3", f"--output={table}"]
    monkeypatch.setattr(sys, "argv", words)
    codecs.main()
    counts: dict[tuple[str, str], int] = {}
    for row in csv.DictReader(table.read_text().splitlines()):
        case = (row["codec"], row["decoder"])
        counts[case] = counts.get(case, 0) + int(row["count"])
    assert len(counts) == 6
    assert set(counts.values()) == {3}
