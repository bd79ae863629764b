"""Cases of bad input: typing errors of users, malicious files, and damage on disk.

Each case has a kind, a description of what is wrong, and a function that makes the words of the command line.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bad_ground import Ground

KINDS = ("config", "annotation", "video", "checkpoint", "command line")


class Case(NamedTuple):
    """One bad input.

    Attributes:
        kind: one of KINDS.
        what: description of what is wrong.
        words: function that makes the words after `hcml`, and the files that they need.
    """

    kind: str
    what: str
    words: Callable[[], list[str]]


TINY = ["--model.backbone=r2d_tiny", "--model.levels=[]", "--trainer.logger=false"]
TINY += ["--trainer.accelerator=cpu", "--data.num_workers=0", "--data.clip_length=4"]
TINY += ["--data.short_side=[32,32]", "--data.crop_size=32", "--data.batch_size=4"]


def cases(ground: Ground) -> list[Case]:
    """Return all cases."""
    found = [*_configs(ground), *_options(ground), *_lists(ground), *_other_lists(ground)]
    return [*found, *_videos(ground), *_checkpoints(ground), *_command_lines(ground)]


def _fit(ground: Ground, *words: str, stage: str = "baseline") -> list[str]:
    recipe = ["-c", f"stages/{stage}.yaml", "-c", "data/ucf101.yaml"]
    return ["fit", *recipe, f"--data.root={ground.ucf}", *TINY, *words]


def _configs(ground: Ground) -> Iterator[Case]:
    texts: dict[str, bytes | str] = {
        "a bracket that is never closed": "model: {init_args: {lr: 0.1}\n",
        "a tab for indentation": "model:\n\tlr: 1\n",
        "a list at the top level": "- model\n- data\n",
        "a tag that calls a function": "model: !!python/object/apply:os.system ['id']\n",
        "not a text file": b"\x80\x81\x00config",
        "thousands of brackets": "[" * 5000,
        "a section that appears twice": "trainer: {max_epochs: 3}\nmodel: {}\ntrainer: {devices: 1}\n",
        "an option that no task has": "model: {init_args: {zetta: 1}}\n",
        "a section that does not exist": "modell: {init_args: {lr: 1}}\n",
        "a number instead of a class": "data: 7\n",
        "a task that does not exist": "model: {class_path: NoTask}\n",
        "a class that is not a task": "model: {class_path: torch.nn.Linear, init_args: {in_features: 1}}\n",
        "a module that does not exist": "model: {class_path: no.such.FlowTask}\n",
        "options of one stage, outside progressive": "flow: {model: {init_args: {lr: 1}}}\n",
    }
    for number, (what, text) in enumerate(texts.items()):
        path = ground.folder / f"config{number}.yaml"
        yield Case(
            "config",
            what,
            lambda path=path, text=text: _fit(ground, "-c", str(ground.file(path.name, text))),
        )
    yield Case("config", "no such file", lambda: _fit(ground, "-c", "stages/none.yaml"))
    yield Case("config", "a folder", lambda: _fit(ground, "-c", str(ground.ucf)))
    yield Case("config", "no stage", lambda: ["fit", "-c", "data/ucf101.yaml"])
    yield Case("config", "no data", lambda: ["fit", "-c", "stages/baseline.yaml"])


def _options(ground: Ground) -> Iterator[Case]:
    wrong = {
        "a word instead of a number": "--model.lr=fast",
        "a fraction instead of a whole number": "--trainer.max_epochs=1.5",
        "a negative learning rate": "--model.lr=-1",
        "a negative momentum": "--model.momentum=-0.1",
        "a dropout above one": "--model.dropout=2",
        "no views per forward pass": "--model.views_per_forward=0",
        "a negative seed": "--data.seed=-1",
        "checkpoints turned off": "--trainer.enable_checkpointing=false",
        "a backbone that does not exist": "--model.backbone=resnet",
        "a level that does not exist": "--model.levels=[5]",
        "an optimizer that does not exist": "--model.optimizer=lion",
        "no frames in a clip": "--data.clip_length=0",
        "no videos in a batch": "--data.batch_size=0",
        "a crop that is larger than the frame": "--data.crop_size=64",
        "a range with one number": "--data.short_side=[32]",
        "a stride that is not a number": "--data.frame_stride=often",
        "a stride of zero": "--data.frame_stride=0",
        "a negative number of workers": "--data.num_workers=-1",
        "a number of classes that differs from the data": "--model.num_classes=7",
        "an accelerator that does not exist": "--trainer.accelerator=quantum",
        "a precision that does not exist": "--trainer.precision=12",
        "a fold that does not exist": "--data.fold=4",
        "more videos in a batch than in the split": "--data.batch_size=99",
        "an abbreviated option": "--trainer.max_epo=3",
    }
    for what, word in wrong.items():
        yield Case("config", what, lambda word=word: _fit(ground, word))
    numbers = {
        "a cost volume with a stride of zero": "--model.stride=0",
        "a cost volume with a negative displacement": "--model.max_displacement=-1",
        "a temperature of zero": "--model.temperature=0",
        "no frames to predict": "--model.max_offset=0",
        "a negative weight": "--model.contrast_weights=[-1]",
        "a weight that is NaN": "--model.smoothness_weight=.nan",
    }
    for what, word in numbers.items():
        yield Case("config", what, lambda word=word: _fit(
            ground, word, "--model.levels=[0,1]", stage="4_recognition"))  # fmt: skip
    yield Case("config", "too few frames for flow", lambda: _fit(
        ground, "--data.clip_length=1", "--model.levels=[0]", stage="1_flow"))  # fmt: skip
    yield Case("config", "too few weights for the levels", lambda: _fit(
        ground, "--model.levels=[0,1,2]", "--model.contrast_weights=[1]", stage="4_recognition"))  # fmt: skip
    yield Case("config", "a contrastive level with no level below", lambda: _fit(
        ground, "--model.level=0", "--model.levels=[0,1]", stage="2_contrast_level1"))  # fmt: skip


def _bench(kind: str, root: Path, *words: str) -> list[str]:
    size = ["--data.clip_length=4", "--data.short_side=[32,32]", "--data.crop_size=32"]
    return ["data", "bench", f"--data={kind}DataModule", f"--data.root={root}", *size, *words]


def _lists(ground: Ground) -> Iterator[Case]:
    train = (ground.ucf / "ucfTrainTestlist/trainlist01.txt").read_text()
    wrong: dict[str, dict[str, bytes | str | None]] = {
        "the class list is missing": {"classes": None},
        "a class without a number": {"classes": "left\nright\n"},
        "a class listed twice": {"classes": "1 left\n2 left\n"},
        "an empty list": {"train": ""},
        "a list in UTF-16": {"train": train.encode("utf-16")},
        "a list in Latin-1": {"train": train.encode() + b"left/Caf\xe9.avi 1\n"},
        "a NUL byte": {"train": train + "left/\0.avi 1\n"},
        "a line of 10 MB": {"train": train + "x" * 10_000_000},
        "a class that is not in the class list": {"train": "dance/v.avi 1\n"},
        "a name that points outside with ..": {"train": "left/../../../secret.avi 1\n"},
        "a name too long for a file": {"train": f"left/{'x' * 300}.avi 1\n"},
        "a class without a file": {"train": "left 1\n"},
        "a video that does not exist": {"train": "left/none.avi 1\n"},
    }
    for number, (what, lists) in enumerate(wrong.items()):
        yield Case("annotation", what, lambda n=number, given=lists: _bench(
            "UCF101", ground.dataset(f"lists{n}", **given)))  # type: ignore[arg-type]  # fmt: skip
    yield Case("annotation", "a folder instead of a list", lambda: _bench(
        "UCF101", _with_folder(ground)))  # fmt: skip
    yield Case("annotation", "a root that does not exist", lambda: _bench(
        "UCF101", ground.folder / "nowhere"))  # fmt: skip
    yield Case("annotation", "a root that is a file", lambda: _bench("UCF101", ground.video))
    yield Case("annotation", "a link that points outside the root, if links are not followed", lambda: _bench(
        "UCF101", ground.dataset("linked"), "--data.follow_links=false"))  # fmt: skip
    yield Case("annotation", "a manifest that is not one", lambda: _bench(
        "UCF101", _with_manifest(ground, "hello\n")))  # fmt: skip


def _with_folder(ground: Ground) -> Path:
    root = ground.dataset("list_is_folder", train=None)  # type: ignore[arg-type]
    (root / "ucfTrainTestlist" / "trainlist01.txt").mkdir()
    return root


def _with_manifest(ground: Ground, text: str) -> Path:
    root = ground.dataset("manifest")
    ground.file("manifest/hcml_manifest.csv", text)
    return root


def _other_lists(ground: Ground) -> Iterator[Case]:
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    tables = {
        "no label column": "youtube_id,time_start,time_end\nabc,1,2\n",
        "a time that is not a number": head + "left,abc,now,then,train,0\n",
        "a row that is cut off": head + "left,abc,1\n",
        "a quotation mark that is never closed": head + '"left,abc,1,2,train,0\n',
        "an id that points outside with ..": head + "left,../../../abc,1,2,train,0\n",
    }
    for number, (what, text) in enumerate(tables.items()):
        yield Case("annotation", f"Kinetics: {what}", lambda n=number, text=text: _bench(
            "Kinetics", ground.file(f"kinetics{n}/train.csv", text).parent))  # fmt: skip
    labels = '{"left": "0"}'
    entry = '[{"id": "1", "template": "left"}]'
    jsons = {
        "labels that are not JSON": ("left\n", entry),
        "a list instead of a mapping of labels": ('["left"]', entry),
        "a label without a number": ('{"left": "first"}', entry),
        "an entry without an id": (labels, '[{"template": "left"}]'),
        "a class that is in no other list": (labels, '[{"id": "1", "template": "up"}]'),
        "an absolute path as an id": (labels, '[{"id": "/etc/passwd", "template": "left"}]'),
        "half of a character in an id": (labels, '[{"id": "\\ud800", "template": "left"}]'),
        "thousands of brackets": (labels, "[" * 100_000),
    }
    for number, (what, pair) in enumerate(jsons.items()):
        yield Case("annotation", f"Something: {what}", lambda n=number, pair=pair: _bench(
            "Something", _something(ground, f"something{n}", *pair)))  # fmt: skip
    yield Case("annotation", "class folders: none", lambda: _bench(
        "VideoFolder", ground.file("empty/readme.txt", "").parent))  # fmt: skip
    yield Case("annotation", "class folders: one without videos", lambda: _bench(
        "VideoFolder", ground.file("novideo/left/readme.txt", "").parents[1]))  # fmt: skip
    yield Case("annotation", "class folders: validation/ instead of val/", lambda: _bench(
        "VideoFolder", _halves(ground, "names", "train", "validation")))  # fmt: skip
    yield Case("annotation", "class folders: val/ without train/", lambda: _bench(
        "VideoFolder", _halves(ground, "half", "val")))  # fmt: skip
    yield Case("annotation", "class folders: one video each", lambda: _bench(
        "VideoFolder", ground.file("single/left/a.avi", "").parents[1]))  # fmt: skip


def _halves(ground: Ground, name: str, *splits: str) -> Path:
    for split in splits:
        ground.file(f"{name}/{split}/left/a.avi", "")
    return ground.folder / name


def _something(ground: Ground, name: str, labels: str, train: str) -> Path:
    ground.file(f"{name}/labels.json", labels)
    ground.file(f"{name}/videos/readme.txt", "")
    return ground.file(f"{name}/train.json", train).parent


def _videos(ground: Ground) -> Iterator[Case]:
    def predict(path: Path) -> list[str]:
        output = ["--output", str(ground.folder / "out.csv"), "--num_workers", "0"]
        return ["predict", str(path), f"--ckpt_path={ground.good}", "--device", "cpu", *output]

    lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n"
    folder = ground.folder
    made: dict[str, Callable[[], Path]] = {
        "no such file": lambda: folder / "none.mp4",
        "an empty file": lambda: ground.file("empty.mp4", ""),
        "a text file": lambda: ground.file("text.mp4", "hello\n"),
        "a git-LFS pointer": lambda: ground.file("lfs.mp4", lfs),
        "a file that was cut short": lambda: ground.cut(ground.video),
        "only the header": lambda: ground.file("header.avi", ground.video.read_bytes()[:256]),
        "random bytes": lambda: ground.file("random.mp4", bytes(range(1, 256)) * 20),
        "only sound": ground.sound,
        "a playlist of other files": lambda: ground.file("list.mp4", "ffconcat version 1.0\nfile good.avi\n"),
        "a playlist of addresses": lambda: ground.file("x.m3u8", "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        "a broken link": lambda: ground.link("dangling.mp4", folder / "gone"),
        "a pipe": lambda: _pipe(folder / "pipe.mp4"),
        "a folder without videos": lambda: ground.file("nothing/readme.txt", "").parent,
        "frames of several sizes": lambda: ground.frames("sizes", 32, 32, 48, 32),
        "a frame that is a text file": lambda: ground.file("textframe/1.jpg", "hello").parent,
        "a frame that is a PostScript program": lambda: ground.file(
            "ps/1.jpg", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").parent,
        "a frame that would fill the memory": ground.bomb,
    }  # fmt: skip
    for what, path in made.items():
        yield Case("video", what, lambda path=path: predict(path()))


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _checkpoints(ground: Ground) -> Iterator[Case]:
    paths: dict[str, Callable[[], Path]] = {
        "no such file": lambda: ground.folder / "none.ckpt",
        "a folder": lambda: ground.ucf,
        "an empty file": lambda: ground.file("empty.ckpt", ""),
        "a text file": lambda: ground.file("text.ckpt", "hello\n"),
        "a file that was cut short": lambda: ground.cut(ground.good),
        "one that tries to run code": ground.attack,
        "only weights": lambda: ground.checkpoint(
            "weights", state_dict=None, weights=dict(ground.task.state_dict())
        ),
    }
    for what, path in paths.items():
        yield Case("checkpoint", f"predict: {what}", lambda path=path: [
            "predict", str(ground.video), f"--ckpt_path={path()}"])  # fmt: skip
        yield Case("checkpoint", f"init_from: {what}", lambda path=path: _fit(
            ground, f"--model.init_from={path()}"))  # fmt: skip
    others: dict[str, Callable[[], Path]] = {
        "one of another stage": ground.of_flow,
        "one without settings": lambda: ground.checkpoint("bare", hyper_parameters=None),
        "settings unknown to this release": lambda: ground.settings("new", zetta=1),
        "weights that are NaN": ground.nan,
        "weights that do not fit the settings": lambda: ground.settings("misfit", num_classes=9),
    }
    for what, path in others.items():
        yield Case("checkpoint", f"predict: {what}", lambda path=path: [
            "predict", str(ground.video), f"--ckpt_path={path()}"])  # fmt: skip
    yield Case("checkpoint", "resume: one of another stage", lambda: _fit(
        ground, f"--ckpt_path={ground.of_flow()}"))  # fmt: skip
    yield Case("checkpoint", "resume: one of another network", lambda: _fit(
        ground, f"--ckpt_path={ground.settings('r2d50', backbone='r2d50')}"))  # fmt: skip
    yield Case("checkpoint", "resume: weights without the state of training", lambda: _fit(
        ground, f"--ckpt_path={ground.good}", "--trainer.max_epochs=2"))  # fmt: skip
    yield Case("checkpoint", "init_from: another network", lambda: _fit(
        ground, f"--model.init_from={ground.good}", "--model.levels=[0]"))  # fmt: skip
    yield Case("checkpoint", "init_from: weights that are NaN", lambda: _fit(
        ground, f"--model.init_from={ground.nan()}"))  # fmt: skip
    yield Case("checkpoint", "test without a checkpoint", lambda: ["test", *_fit(ground)[1:]])


def _command_lines(ground: Ground) -> Iterator[Case]:
    ucf, video, good = str(ground.ucf), str(ground.video), f"--ckpt_path={ground.good}"
    data = ["--data=UCF101DataModule", f"--data.root={ucf}"]
    copy = str(ground.folder / "copy")
    lines = {
        "a command that does not exist": ["train"],
        "a tool that does not exist": ["data", "chek"],
        "an option that does not exist": ["predict", video, good, "--topk", "3"],
        "an option without its value": ["fit", "-c"],
        "a word that belongs to no option": ["fit", "stages/baseline.yaml"],
        "predict without a checkpoint": ["predict", video],
        "predict without videos": ["predict", good],
        "no classes to show": ["predict", video, good, "--top_k", "0"],
        "a device that does not exist": ["predict", video, good, "--device", "quantum"],
        "a negative number of workers": ["predict", video, good, "--num_workers=-1"],
        "synthesize into a folder with files": ["synthesize", ucf],
        "synthesize no videos": ["synthesize", f"{copy}0", "--num_train", "0", "--num_val", "0"],
        "synthesize a layout that does not exist": ["synthesize", copy, "--layout", "imagenet"],
        "flops of a backbone that does not exist": ["flops", "--backbone", "resnet"],
        "flops of clips without frames": ["flops", "--backbone", "r2d_tiny", "--frames", "0"],
        "progressive without a folder": ["progressive", "-c", "data/ucf101.yaml"],
        "progressive with a stage that does not exist": [
            "progressive", "--run_dir", copy, "--stages", "flow,dance"],
        "progressive with a config that does not exist": [
            "progressive", "--run_dir", copy, "-c", "data/none.yaml"],
        "a report on a folder that is not a run": ["report", ucf],
        "check without data": ["data", "check"],
        "prepare into the dataset itself": ["data", "prepare", *data, "--output", ucf],
        "prepare into a folder of the dataset": ["data", "prepare", *data, "--output", f"{ucf}/small"],
        "prepare into a file": [
            "data", "prepare", *data, "--output", str(ground.file("note.txt", ""))],
        "prepare part 9 of 3": ["data", "prepare", *data, "--output", copy, "--shard", "9/3"],
        "bench with a word instead of a number": ["data", "bench", *data, "--workers", "many"],
    }  # fmt: skip
    for what, words in lines.items():
        yield Case("command line", what, lambda words=words: words)
