"""[splits → **loaders** → batch → model → loss → metric]

The order of the videos of a split, their distribution over the ranks, and how an interrupted epoch resumes with exactly
the batch that would have come next.
"""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from hcml_lightning.batch import VideoBatch
from hcml_lightning.data.dataset import Sample, VideoDataset


class EpochSampler(DistributedSampler[Sample | None]):
    """Reshuffle the training split in every epoch, give each rank its share, and pass on the epoch with each index.

    Args:
        dataset: the training split.
        seed: determines the order, together with the epoch.
        num_replicas: number of ranks.
        rank: this rank.
    """

    def __init__(
        self, dataset: VideoDataset, seed: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        # PyTorch adds the epoch to the seed, so the order of seed 1 would be that of seed 0 one epoch later.
        mixed = int(np.random.SeedSequence([seed]).generate_state(1)[0])
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=mixed, drop_last=True)
        self.given_seed = seed
        self.start = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """Yield (epoch, index) for this rank, skipping the first `start`.

        Raises:
            RuntimeError: if the sampler was created for another number of ranks.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = torch.distributed.get_world_size()
            if ranks != self.num_replicas:
                raise RuntimeError(
                    f"this training loader was made for {self.num_replicas} process(es) but is used by {ranks}, which "
                    "would train on the same videos; pass the data module to the Trainer: trainer.fit(task, data)"
                )
        indices = list(cast(Iterator[int], super().__iter__()))
        return ((self.epoch, index) for index in indices[self.start :])


class EvaluationSampler(DistributedSampler[Sample | None]):
    """Distribute whole batches in order, so that each batch holds the same videos as it would on a single rank.

    Every video goes to exactly one rank, and ranks may get different numbers of videos. Only if there are fewer batches
    than ranks, batches are repeated on several ranks: a rank without a batch would log nothing, and the ranks that log
    would wait for it forever. The metrics count each video once.

    Args:
        dataset: a split for evaluation.
        num_replicas: number of ranks.
        rank: this rank.
        batch_size: videos in a batch.
    """

    def __init__(
        self, dataset: VideoDataset, num_replicas: int = 1, rank: int = 0, batch_size: int = 1
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        total = len(dataset)
        batches = [
            range(start, min(start + batch_size, total)) for start in range(0, total, batch_size)
        ]
        mine = batches[rank::num_replicas] or [batches[rank % len(batches)]]
        self._indices = [index for batch in mine for index in batch]
        self.num_samples = len(self._indices)

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        """Yield the indices for this rank."""
        return iter(self._indices)


def leave_stopping_to_the_run(worker: int) -> None:
    """Let a worker ignore the signals that end a run, which schedulers send to all processes of a job.

    The run ends its workers itself, after it has saved its state with the batches that they still deliver.

    Args:
        worker: its number.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # macOS cannot tell who sent a signal.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_word_of_parent, daemon=True).start()


def _end_at_word_of_parent() -> None:
    """End this process when its parent sends SIGTERM: so PyTorch ends workers that hang, as in reading a dead disk."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)


class ResumableLoader(DataLoader[VideoBatch]):
    """A loader of the training split that can be interrupted after any batch and resumes with the next.

    Every sample depends on seed, epoch and index alone, so that only the number of batches taken must be stored. The
    Trainer stores it in its checkpoints; batches that workers have prepared ahead do not count.
    """

    _taken = 0
    _resume: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[VideoBatch]:  # type: ignore[override]
        """Yield the batches of the epoch that is set in the sampler when the first batch is requested.

        The Trainer calls `iter` before it sets the epoch, and workers started then would use the wrong one.
        """
        sampler = self._epoch_sampler
        if sampler is None:
            yield from super().__iter__()
            return
        self._taken = self._batches_to_skip(sampler)
        sampler.start = self._taken * cast(int, self.batch_size)
        try:
            batches = super().__iter__()
            for batch in batches:
                self._taken += 1
                yield batch
        finally:
            sampler.start = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to resume after the last batch that was yielded."""
        sampler = self._epoch_sampler
        if sampler is None:
            return {}
        return {"epoch": sampler.epoch, "batches": self._taken, **self._shape(sampler)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state_dict` was called, if the next epoch that is iterated is the same one."""
        self._resume = state or None

    def batches_moved(self, epoch: int) -> int:
        """Return how many batches later the place to resume is than the stored one; negative if batches are larger now.

        Args:
            epoch: the epoch in which training resumes.
        """
        state, sampler = self._resume, self._epoch_sampler
        if state is None or sampler is None or state["epoch"] != epoch:
            return 0
        return min(self._place_in(state, sampler)[0], len(self)) - int(state["batches"])

    def _place_in(self, state: dict[str, Any], sampler: EpochSampler) -> tuple[int, int]:
        """Return how many batches hold what the stored ones held, and how many videos are left over."""
        seen = state["batches"] * state["batch_size"] * state["ranks"]
        # The order of an epoch depends neither on the batch size nor on the number of ranks.
        return divmod(int(seen), cast(int, self.batch_size) * sampler.num_replicas)

    def _batches_to_skip(self, sampler: EpochSampler) -> int:
        state, self._resume = self._resume, None
        if state is None or state["epoch"] != sampler.epoch:
            return 0
        changed = {name: (state[name], new) for name, new in self._shape(sampler).items()}
        changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
        batches, rest = self._place_in(state, sampler)
        if rest or changed.keys() & {"videos", "seed"}:
            rank_zero_warn(
                "the rest of this epoch sees some videos twice and others not at all, because the checkpoint was "
                "written with "
                + ", ".join(
                    f"{name} {old} instead of {new}" for name, (old, new) in changed.items()
                )
            )
        return min(batches, len(self))

    def _shape(self, sampler: EpochSampler) -> dict[str, int]:
        """Return what determines which videos a number of batches covers."""
        return {
            "batch_size": cast(int, self.batch_size),
            "ranks": sampler.num_replicas,
            "videos": len(cast(VideoDataset, self.dataset)),
            "seed": sampler.given_seed,
        }

    @property
    def _epoch_sampler(self) -> EpochSampler | None:
        # The Trainer replaces the sampler if it overfits a few batches (`overfit_batches`); nothing is shuffled then.
        return self.sampler if isinstance(self.sampler, EpochSampler) else None
