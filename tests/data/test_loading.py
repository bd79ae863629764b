"""An interrupted epoch resumes with the next batch, and ranks share an evaluation without counting twice."""

import multiprocessing
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from hcml_lightning import FlowTask
from hcml_lightning.data import UCF101DataModule
from hcml_lightning.data.loading import (
    EpochSampler,
    EvaluationSampler,
    ResumableLoader,
    leave_stopping_to_the_run,
)
from hcml_lightning.data.packed import PackedList
from hcml_lightning.metrics import VideoAccuracy
from hcml_lightning.resume import ResumedLoader

SMALL = {"clip_length": 4, "short_side": (40, 48), "crop_size": 32, "flip": "mirror"}
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
]


def make(root: Path, num_workers: int = 0, **changes) -> UCF101DataModule:
    return UCF101DataModule(
        str(root), num_workers=num_workers, **(SMALL | {"batch_size": 2} | changes)
    )


def test_another_seed_is_another_order_and_not_that_of_another_epoch(synthetic_root):
    data = make(synthetic_root("ucf101"))
    data.setup("fit")
    orders = set()
    for seed in range(3):
        sampler = EpochSampler(data.dataset("train"), seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.add(tuple(index for _, index in sampler))
    assert len(orders) == 9


class Stop(Exception):
    """Ends a run abruptly."""


class Recorder(pl.LightningModule):
    """Trains one number; records epoch, videos and a checksum of every batch."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at = stop_at
        self.seen: list[tuple[int, tuple[str, ...], int]] = []
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        if self.global_step == self.stop_at:
            raise Stop
        # The checksum of the pixels tells frames and crops apart.
        pixels = batch["video"].long()
        places = torch.arange(pixels.numel()).reshape(pixels.shape) % 10_007
        content = int((pixels * places).sum())
        self.seen.append((self.current_epoch, tuple(batch["video_id"]), content))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("val/top1", 0.0, batch_size=len(batch["label"]))

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(root: Path, folder: Path, stop_at: int = -1, resume: bool = False, **settings) -> list:
    num_workers, every = settings.pop("num_workers", 0), settings.pop("every", 1)
    save = ModelCheckpoint(
        dirpath=folder, save_last=True, enable_version_counter=False, **(
            {"every_n_train_steps": every} if every else {"monitor": "val/top1", "save_top_k": -1}
        ),
    )  # fmt: skip
    model = Recorder(stop_at)
    trainer = pl.Trainer(max_epochs=3, callbacks=[save], **QUIET, **settings)
    with suppress(Stop):
        trainer.fit(
            model,
            datamodule=make(root, num_workers),
            ckpt_path=str(folder / "last.ckpt") if resume else None,
        )
    return model.seen


@pytest.mark.parametrize(
    ("stop_at", "settings"),
    [
        (2, {}),
        (5, {}),
        (6, {"num_workers": 2}),
        (7, {"every": 2}),
        (4, {}),
        (8, {"num_workers": 1, "every": 0}),
        (10, {"every": 0}),
        (7, {"limit_train_batches": 3}),
        (6, {"limit_train_batches": 3, "every": 0}),
        (7, {"val_check_interval": 2, "every": 0}),
    ],
)
def test_interrupted_run_resumes_with_the_next_batch(synthetic_root, tmp_path, stop_at, settings):
    root = synthetic_root("ucf101")
    expected = run(root, tmp_path / "whole", **settings)
    per_epoch = settings.get("limit_train_batches", 4)
    assert [epoch for epoch, *_ in expected] == [e for e in range(3) for _ in range(per_epoch)]
    first = run(root, tmp_path / "cut", stop_at, **settings)
    assert first == expected[:stop_at]
    rest = run(root, tmp_path / "cut", resume=True, **settings)
    # The checkpoint may be some steps old; from there on all is the same.
    every = settings.get("every", 1)
    saved = stop_at // every * every if every else stop_at - stop_at % settings.get(
        "val_check_interval", per_epoch
    )  # fmt: skip
    assert rest == expected[saved:]


class Scheduled(Recorder):
    """Asks how long training is, as a schedule does, before the Trainer has restored the whole checkpoint."""

    steps = 12

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == self.steps
        return super().configure_optimizers()


def test_loader_without_its_data_module_resumes_with_the_next_batch(synthetic_root, tmp_path):
    def seen(stop_at: int = -1, ckpt_path: Path | None = None) -> list:
        save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1)
        model, data = Scheduled(stop_at), make(synthetic_root("ucf101"))
        data.setup("fit")
        trainer = pl.Trainer(max_epochs=3, callbacks=[save, ResumedLoader()], **QUIET)
        with suppress(Stop):
            trainer.fit(model, data.train_dataloader(), data.val_dataloader(), ckpt_path=ckpt_path)
        return model.seen

    expected = seen(stop_at=9)
    seen(stop_at=6)
    (last,) = tmp_path.glob("last-v1.ckpt")
    assert seen(stop_at=9, ckpt_path=last) == expected[6:]


@pytest.mark.parametrize("with_data_module", [True, False])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_an_epoch_resumed_with_another_batch_size_is_validated_at_its_end(
    with_data_module, before, after, synthetic_root, tmp_path
):
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=1)

    def fit(batch_size: int, stop_at: int = -1, ckpt_path: Path | None = None) -> list:
        model, data = Scheduled(stop_at), make(synthetic_root("ucf101"), batch_size=batch_size)
        model.steps = 2 * 8 // batch_size
        # With a data module, only other batches need the callback.
        alone = with_data_module and before == after
        callbacks = [save] if alone else [save, ResumedLoader()]
        trainer = pl.Trainer(max_epochs=2, callbacks=callbacks, **QUIET)
        source = {"datamodule": data}
        if not with_data_module:
            data.setup("fit")
            source = {"train_dataloaders": data.train_dataloader()}
            source["val_dataloaders"] = data.val_dataloader()
        with suppress(Stop):
            trainer.fit(model, **source, ckpt_path=ckpt_path)
        return model.seen, model.validated

    # Half an epoch of eight videos.
    first, _ = fit(before, stop_at=4 // before)
    rest, validated = fit(after, ckpt_path=tmp_path / "last.ckpt")
    for epoch in (0, 1):
        videos = [name for e, names, _ in first + rest if e == epoch for name in names]
        assert len(videos) == len(set(videos)) == 8
    steps = 4 // before + 4 // after
    assert validated == [steps, steps + 8 // after]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_outlive_the_signal_that_a_scheduler_sends_to_all_processes(signum, synthetic_root):
    data = make(synthetic_root("ucf101"), num_workers=1)
    data.setup("validate")
    loader = data.val_dataloader()
    batches = iter(loader)
    next(batches)
    # Not `os.kill`: the scheduler is not the parent of the worker.
    subprocess.run(["kill", f"-{signum}", str(loader._iterator._workers[0].pid)], check=True)
    assert len(list(batches)) == len(loader) - 1


class Hanging(Dataset):
    """Its items never come, as from a disk that no longer answers."""

    def __init__(self):
        self.asked = multiprocessing.Event()

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.asked.set()
        while True:
            signal.pause()


def test_a_worker_that_hangs_is_ended_by_its_loader(monkeypatch):
    # PyTorch waits that long, in seconds, before it sends SIGTERM.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    videos = Hanging()
    loader = DataLoader(videos, num_workers=1, worker_init_fn=leave_stopping_to_the_run)
    iterator = iter(loader)
    worker = iterator._workers[0]
    try:
        assert videos.asked.wait(60)
        iterator._shutdown_workers()
        worker.join(10)
        assert worker.exitcode == 128 + signal.SIGTERM
    finally:
        worker.kill()


def test_a_loader_of_one_process_is_refused_by_two(synthetic_root, monkeypatch):
    data = make(synthetic_root("ucf101"))
    data.setup("fit")
    sampler = data.train_dataloader().sampler
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(
        RuntimeError, match=r"made for 1 process.*used by 2.*trainer\.fit\(task, data"
    ):
        iter(sampler)


def test_resuming_with_another_batch_size_warns(synthetic_root):
    data = make(synthetic_root("ucf101"))
    data.setup("fit")
    loader = data.train_dataloader()
    next(iter(loader))
    state = loader.state_dict()
    assert state == {"epoch": 0, "batches": 1, "batch_size": 2, "ranks": 1, "videos": 8, "seed": 0}
    changed = make(synthetic_root("ucf101"), batch_size=4)
    changed.setup("fit")
    other = changed.train_dataloader()
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="batch_size 2 instead of 4"):
        assert len(list(other)) == 2
    # Two batches of two are one of four.
    other.load_state_dict(state | {"batches": 2})
    assert len(list(other)) == 1
    assert len(list(other)) == 2


@pytest.mark.parametrize(("videos", "ranks"), [(8, 1), (8, 2), (8, 3), (7, 4), (2, 3), (1, 4)])
def test_each_evaluation_video_goes_to_one_rank(videos, ranks):
    shares = [list(EvaluationSampler(range(videos), ranks, rank)) for rank in range(ranks)]
    assert all(shares)
    together = sorted(index for share in shares for index in share)
    if videos >= ranks:
        assert together == list(range(videos))
        assert [len(EvaluationSampler(range(videos), ranks, r)) for r in range(ranks)] == [
            len(share) for share in shares
        ]
    assert set(together) == set(range(videos))


class Counter(pl.LightningModule):
    """Counts the videos of an evaluation over all ranks, and its accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.accuracy = VideoAccuracy()

    def test_step(self, batch, batch_idx):
        # Right only for videos of even index.
        scores = torch.nn.functional.one_hot((batch["label"] + batch["index"] % 2) % 8, 8).float()
        self.accuracy.update(scores, batch["label"], batch["index"])
        self.log("test/top1", self.accuracy)
        self.log("test/count", float(len(batch["index"])), reduce_fx="sum", sync_dist=True)


def evaluate(root: str, file: str) -> None:
    """Run on every rank: test seven videos, three in a batch."""
    data = make(Path(root), batch_size=3, test_clips=1, test_crops=1, test_crop_size=32)
    data.setup("test")
    dataset = data.dataset("test")
    dataset.records = PackedList(dataset.records[:-1])
    trainer = pl.Trainer(devices=2, strategy="ddp_notebook", **QUIET)
    trainer.test(Counter(), datamodule=data, verbose=False)
    if trainer.is_global_zero:
        torch.save({k: float(v) for k, v in trainer.callback_metrics.items()}, file)


def test_two_ranks_count_each_video_once(synthetic_root, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(
        f"import sys, warnings; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "warnings.simplefilter('ignore')\n"
        "from test_loading import evaluate\n"
        f"evaluate({str(synthetic_root('ucf101'))!r}, {str(tmp_path / 'found.pt')!r})\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300, capture_output=True)
    found = torch.load(tmp_path / "found.pt")
    assert found["test/count"] == 7
    assert found["test/top1"] == pytest.approx(4 / 7)


@pytest.mark.filterwarnings("ignore:.*overfit")
def test_a_trainer_may_overfit_a_few_batches(synthetic_root, tmp_path):
    """Lightning then puts its own sampler into the loader, which has no epochs to resume."""
    seen: list[list[str]] = []

    class Record(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch["video_id"])

    trainer = pl.Trainer(
        **QUIET,
        overfit_batches=1,
        max_epochs=2,
        callbacks=[Record()],
        default_root_dir=tmp_path,
    )
    task = FlowTask(backbone="r2d_tiny", num_classes=8, warmup_epochs=0)
    trainer.fit(task, datamodule=make(synthetic_root("ucf101"), batch_size=3))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert list(tmp_path.rglob("*.ckpt"))


def test_training_shares_of_ranks_are_disjoint_and_of_equal_size():
    first, second = ([i for _, i in EpochSampler(range(7), 0, 2, rank)] for rank in (0, 1))
    assert len(first) == len(second) == 3
    assert len({*first, *second}) == 6


def test_resuming_an_epoch_with_another_seed_warns():
    # The sampler asks for samples by (epoch, index).
    videos = {(0, index): index for index in range(8)}
    loader = ResumableLoader(videos, sampler=EpochSampler(videos, 0), batch_size=2, collate_fn=list)
    loader.load_state_dict(loader.state_dict() | {"batches": 1, "seed": 1})
    with pytest.warns(UserWarning, match="seed 1 instead of 0"):
        batches = list(loader)
    assert len(batches) == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_sample_at_a_negative_index_has_its_own_index(split, synthetic_root):
    data = make(synthetic_root("ucf101"))
    data.setup("fit")
    dataset = data.dataset(split)
    assert dataset[-1].index == len(dataset) - 1
    assert dataset[-1].video_id == dataset[len(dataset) - 1].video_id
    for outside in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[outside]
