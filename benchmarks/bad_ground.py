"""A folder with a small valid dataset, a valid checkpoint, and invalid files made from them."""

import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image

from hcml_lightning import FlowTask, RecognitionTask
from hcml_lightning.data.synthetic import write_synthetic

CLIP = {
    "clip_length": 4,
    "frame_stride": 1,
    "short_side": (32, 32),
    "crop_size": 32,
    "test_clips": 1,
    "test_crops": 1,
}


class Payload:
    """An object that calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return print, ("this was run",)


class Ground:
    """A folder in which bad input is made.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ucf = folder / "ucf101"
        write_synthetic(self.ucf, layout="ucf101", num_train=1, num_val=1, num_frames=8, height=32)
        self.video = sorted(self.ucf.glob("videos/left/*.avi"))[0]
        self.task = RecognitionTask(backbone="r2d_tiny", num_classes=8, levels=())
        self.good = self.checkpoint("good")

    def file(self, name: str, content: bytes | str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def dataset(self, name: str, **lists: bytes | str) -> Path:
        """Copy the valid dataset with other lists (`classes`, `train`, `test`); None removes a list."""
        root = self.folder / name
        (root / "ucfTrainTestlist").mkdir(parents=True)
        (root / "videos").symlink_to(self.ucf / "videos")
        names = {"classes": "classInd.txt", "train": "trainlist01.txt", "test": "testlist01.txt"}
        for key, file in names.items():
            good = (self.ucf / "ucfTrainTestlist" / file).read_bytes()
            content = lists.get(key, good)
            if content is not None:
                self.file(f"{name}/ucfTrainTestlist/{file}", content)
        return root

    def checkpoint(self, name: str, task: pl.LightningModule | None = None, **changed: Any) -> Path:
        """Write a checkpoint like that of a stage, with some entries changed; None removes an entry."""
        task = task or self.task
        content: dict[str, Any] = {
            "state_dict": dict(task.state_dict()),
            "hyper_parameters": dict(task.hparams),
            "datamodule_hyper_parameters": dict(CLIP),
            "pytorch-lightning_version": pl.__version__,
            "epoch": 0,
            "global_step": 1,
            "task": type(task).__name__,
            "class_names": None,
        } | changed
        path = self.folder / f"{name}.ckpt"
        torch.save({k: v for k, v in content.items() if v is not None}, path)
        return path

    def settings(self, name: str, **changed: Any) -> Path:
        """Write a checkpoint with other settings of its task; None removes a setting."""
        # Saved by the command line, which creates tasks by name.
        made_by = {"_instantiator": "pytorch_lightning.cli.instantiate_module"}
        settings = {**made_by, **self.task.hparams, **changed}
        kept = {k: v for k, v in settings.items() if v is not None}
        return self.checkpoint(name, hyper_parameters=kept)

    def attack(self) -> Path:
        """Write a checkpoint that tries to run code."""
        return self.checkpoint("attack", state_dict={"model.network.fc.bias": Payload()})

    def of_flow(self) -> Path:
        """Write a checkpoint of another stage."""
        return self.checkpoint("flow", FlowTask(backbone="r2d_tiny", num_classes=8))

    def nan(self) -> Path:
        """Write a checkpoint with NaN in its weights."""
        state = dict(self.task.state_dict())
        state["model.network.fc.bias"] = torch.full((8,), torch.nan)
        return self.checkpoint("nan", state_dict=state)

    def cut(self, path: Path, share: float = 0.5) -> Path:
        """Write the first part of a file."""
        content = path.read_bytes()
        return self.file(f"cut{path.suffix}", content[: int(share * len(content))])

    def link(self, name: str, target: str | Path) -> Path:
        """Make a symbolic link."""
        path = self.folder / name
        path.symlink_to(target)
        return path

    def sound(self) -> Path:
        """Write a file with sound only, under the name of a video."""
        path = self.folder / "sound.avi"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000))
        return path

    def frames(self, name: str, *sizes: int) -> Path:
        """Make a folder of frames with these widths in pixels."""
        folder = self.folder / name
        folder.mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", (size, 32)).save(folder / f"{number}.png")
        return folder

    def bomb(self) -> Path:
        """Write a frame of a few bytes whose header claims 30000 by 30000 pixels."""
        folder = self.frames("bomb", 32)
        content = bytearray((folder / "0.png").read_bytes())
        content[16:24] = (30000).to_bytes(4, "big") * 2
        # The checksum of the header, which some readers verify.
        content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
        (folder / "0.png").write_bytes(content)
        return folder
