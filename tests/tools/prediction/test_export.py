"""Exported programs compute what the network does, for other batch sizes and without this package."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.export import passes

from hcml_lightning import MotionNetwork, Recognizer
from hcml_lightning.cli import main
from hcml_lightning.data.decode import probe, read_frames
from hcml_lightning.data.sampling import clip_frames
from hcml_lightning.data.transforms import apply_view, even_views
from hcml_lightning.tools.prediction import exporting as tool
from hcml_lightning.tools.prediction.export import FORMATS

onnxruntime = pytest.importorskip("onnxruntime")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("onnxscript")

# PyTorch 2.11 warns about its own reader and its own names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]


@pytest.fixture(scope="module")
def recognizer(checkpoints: dict[str, Path]) -> Recognizer:
    return Recognizer.from_checkpoint(checkpoints["recognition"])


@pytest.fixture(scope="module")
def exported(
    checkpoints: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder as someone has it who follows docs/export.md."""
    folder = tmp_path_factory.mktemp("mine")
    words = ["export", f"--ckpt_path={checkpoints['recognition']}"]
    assert main([*words, f"--output={folder / 'exported'}"]) == 0
    return folder


def clips(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (batch, 3, 4, 32, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_export_leaves_one_file_for_each_format(exported: Path):
    names = ["recognizer.onnx", "recognizer.pt2", "recognizer.safetensors"]
    assert sorted(path.name for path in (exported / "exported").iterdir()) == names


def test_table_of_the_export_is_explained(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["export", f"--ckpt_path={checkpoints['recognition']}", f"--output={tmp_path}"]
    assert main([*words, "--formats", "safetensors"]) == 0
    said = capsys.readouterr().out
    assert (
        "\nlargest difference: of the logits from those of the network, on random clips\n" in said
    )
    assert said.endswith("docs/export.md shows how to use the files\n")


@pytest.mark.parametrize("batch", [1, 5])
def test_programs_compute_what_the_network_does(exported: Path, recognizer: Recognizer, batch: int):
    given = clips(batch)
    with torch.no_grad():
        expected = recognizer.network(given)
        loaded = torch.export.load(exported / "exported" / "recognizer.pt2")
        assert (loaded.module()(given) - expected).abs().max() <= 1e-4
    session = onnxruntime.InferenceSession(exported / "exported" / "recognizer.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 4, 32, 32]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    [logits] = session.run(["logits"], {"clip": given.numpy()})
    assert (torch.from_numpy(logits) - expected).abs().max() <= 1e-4
    assert expected.std() > 1e-3


def test_exported_files_contain_names_and_preprocessing(exported: Path, recognizer: Recognizer):
    files = {tool.METADATA: ""}
    program = torch.export.load(exported / "exported" / "recognizer.pt2", extra_files=files)
    session = onnxruntime.InferenceSession(exported / "exported" / "recognizer.onnx")
    with safetensors.safe_open(exported / "exported" / "recognizer.safetensors", "pt") as file:
        texts = [
            files[tool.METADATA],
            session.get_modelmeta().custom_metadata_map[tool.METADATA],
            file.metadata()[tool.METADATA],
        ]
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert texts[0] == texts[1] == texts[2]
    about = json.loads(texts[0])
    assert about["class_names"] == list(recognizer.class_names)
    assert about["preprocessing"]["frame_stride"] == recognizer.recipe.frame_stride
    assert about["preprocessing"]["clips"] == 2
    network = MotionNetwork(**about["architecture"])
    network.load_state_dict(weights)
    for name, value in recognizer.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    # No part of the program stays on the device on which it was exported.
    moved = passes.move_to_device_pass(program, "meta").module()
    assert moved(clips(2).to("meta")).device.type == "meta"


def test_code_of_the_export_page_runs_without_this_package(
    exported: Path,
    recognizer: Recognizer,
    checkpoints: dict[str, Path],
    repository: Path,
    synthetic_root: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
):
    """Run the code of docs/export.md in order; blocks that do not import the package run without it."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs/export.md").read_text(), re.S)
    without = [block for block in blocks if "hcml_lightning import" not in block]
    shutil.copy(next((synthetic_root("ucf101") / "videos" / "in").glob("*.avi")), exported)
    next(exported.glob("*.avi")).rename(exported / "video.avi")
    script = ["import sys; sys.modules['hcml_lightning'] = None", *without]
    script += ["torch.save([clip, logits, torch.from_numpy(onnx_logits)], 'seen.pt')"]
    script += ["spread = {**about['preprocessing'], 'frame_stride': 'spread', 'clip_length': 5}"]
    script += ["torch.save(read_clip('video.avi', spread), 'spread.pt')"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], cwd=exported, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    clip, *found = torch.load(exported / "seen.pt")
    assert clip.shape == (1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = recognizer.network(clip)
    for logits in found:
        assert (logits - expected).abs().max() <= 1e-4
    assert recognizer.class_names[int(expected.argmax())] in done.stdout
    recipe, video = recognizer.recipe, str(exported / "video.avi")
    info = probe(video)
    (numbers,) = clip_frames(info.num_frames, recipe.clip_length, recipe.frame_stride)
    (view,) = even_views(info.height, info.width, recipe.short_side[0], recipe.crop_size)
    assert torch.equal(clip[0], apply_view(read_frames(video, numbers), view))
    (numbers,) = clip_frames(info.num_frames, 5, "spread")
    (spread,) = torch.load(exported / "spread.pt")
    assert torch.equal(spread, apply_view(read_frames(video, numbers), view))
    shutil.copy(checkpoints["recognition"], exported / "last.ckpt")
    monkeypatch.chdir(exported)
    names: dict[str, object] = {}
    for block in (b for b in blocks if b not in without or "safe_open" in b):
        exec(block, names)
    assert isinstance(names["network"], MotionNetwork)


def test_program_that_differs_from_the_network_is_not_kept(
    recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(
        tool.WRITERS, "pt2", lambda *given: lambda clip: recognizer.network(clip) + 1e-3
    )
    monkeypatch.setattr(tool, "export_program", lambda recognizer: None)
    with pytest.raises(tool.ExportError, match=r"differs from the network by 1\.0e-03"):
        tool.export(recognizer, str(tmp_path), ["pt2"])
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_reported_with_what_to_install(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tool.PACKAGES, "onnx", ("no_such_package",))
    with pytest.raises(SystemExit, match=r"pip install 'hcml-lightning\[export\]'"):
        main(["export", f"--ckpt_path={checkpoints['recognition']}", "--output=nowhere"])
    assert not Path("nowhere").exists()


def test_every_format_has_a_writer():
    assert tuple(tool.WRITERS) == FORMATS


def test_output_folder_named_like_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", "no.ckpt", "--output", str(tmp_path / "net.onnx")])
    assert "pass a folder, and set the format with --formats onnx" in " ".join(
        capsys.readouterr().err.split()
    )
