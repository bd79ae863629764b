"""Eq. 2 against loops, and the counts of positives and negatives of A.2."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hcml_lightning.losses import (
    contrastive_accuracy,
    contrastive_loss,
    pair_with_future,
    sample_locations,
)


def slow_loss(
    predicted: torch.Tensor, targets: torch.Tensor, positive: torch.Tensor, tau: float
) -> float:
    """Eq. 2 literally, as a mean over predictions."""

    def sim(u: torch.Tensor, v: torch.Tensor) -> float:
        return float(u @ v / (u.norm() * v.norm()))

    losses = []
    for row, right in zip(predicted, positive.tolist(), strict=True):
        exponentials = [math.exp(sim(row, target) / tau) for target in targets]
        losses.append(-math.log(exponentials[right] / sum(exponentials)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_loss_equals_eq_2(tau: float) -> None:
    torch.manual_seed(0)
    predicted, targets = torch.randn(9, 5).double(), torch.randn(7, 5).double()
    positive = torch.randint(0, 7, (9,))
    actual = contrastive_loss(predicted, targets, positive, tau)
    assert float(actual) == pytest.approx(slow_loss(predicted, targets, positive, tau), rel=1e-10)


def test_gradient_reaches_predictions_only() -> None:
    predicted = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([0, 1, 5, 2])
    contrastive_loss(predicted, targets, positive).backward()
    assert targets.grad is None
    assert predicted.grad is not None
    assert torch.autograd.gradcheck(
        lambda p: contrastive_loss(p, targets.detach(), positive), (predicted,)
    )


@pytest.mark.parametrize("tau", [0.07, 0.005])
@pytest.mark.parametrize("block", [1, 30, 1 << 20])
def test_blockwise_loss_and_gradient_equal_the_full_softmax(
    tau: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference computes all similarities at once and uses autograd."""
    monkeypatch.setattr("hcml_lightning.losses.contrastive.BLOCK", block)
    torch.manual_seed(0)
    predicted = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    targets, positive = torch.randn(9, 6).double(), torch.randint(0, 9, (23,))
    loss = contrastive_loss(predicted, targets, positive, tau)
    (actual,) = torch.autograd.grad(3 * loss, predicted)
    similarity = F.normalize(predicted, dim=1) @ F.normalize(targets, dim=1).t()
    slow = F.cross_entropy(similarity / tau, positive)
    (expected,) = torch.autograd.grad(3 * slow, predicted)
    torch.testing.assert_close(loss, slow)
    torch.testing.assert_close(actual, expected)


def test_gpu_gets_few_large_blocks() -> None:
    """A block is two dozen launches; in blocks that suit a CPU, the paper's sizes would need 54."""
    predicted = torch.empty(13824, 64, device="meta", requires_grad=True)
    targets, positive = torch.empty(4096, 64, device="meta"), torch.empty(13824, device="meta")
    with Operations() as operations:
        contrastive_loss(predicted, targets, positive.long()).backward()
    # Each block is multiplied twice.
    assert operations.names.count("aten.mm.default") == 2 * 7
    assert len(operations.names) < 300


class Operations(TorchDispatchMode):
    """Records the names of all operations sent to a device, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_loss_without_gradient_leaves_predictions_unchanged() -> None:
    predicted, targets = torch.randn(5, 6), torch.randn(9, 6)
    before = predicted.clone()
    loss = contrastive_loss(predicted, targets, torch.arange(5))
    assert not loss.requires_grad
    assert torch.equal(predicted, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_lengths_stay_finite_and_accurate(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    targets = torch.randn(6, 8)
    rows = targets[[0, 3, 5]] * torch.tensor([[1e-2], [1.0], [1e3]])
    rows = torch.cat([rows, torch.zeros(1, 8)]).to(dtype).requires_grad_()
    positive = torch.tensor([0, 3, 5, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(rows, targets.to(dtype), positive)
    loss.backward()
    assert loss.dtype == torch.float32
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    expected = contrastive_loss(rows.float().detach(), targets, positive)
    torch.testing.assert_close(loss.detach(), expected, rtol=0.02, atol=0.02)


def test_each_prediction_has_as_many_negatives_as_the_appendix_says() -> None:
    batch, frames, places, offsets, channels = 3, 5, 4, 2, 1
    # The value of a target encodes its clip, frame and place; a prediction has the value of the target it predicts.
    names = torch.arange(batch * frames * places).view(batch, frames, places, channels)
    future = torch.full((batch, frames, places, offsets, channels), -1)
    for offset in range(1, offsets + 1):
        future[:, : frames - offset, :, offset - 1] = names[:, offset:]
    predicted, targets, positive = pair_with_future(future, names)
    assert len(targets) == batch * frames * places
    assert len(predicted) == batch * places * sum(frames - k for k in range(1, offsets + 1))
    assert -1 not in predicted.flatten().tolist()
    assert torch.equal(targets[positive], predicted)  # the one positive: same clip, place and time

    def where(name: int) -> tuple[int, int, int]:
        clip, rest = divmod(name, frames * places)
        return clip, *divmod(rest, places)

    for name in predicted.flatten().tolist():
        clip, time, place = where(name)
        kinds: Counter[str] = Counter()
        for other in targets.flatten().tolist():
            other_clip, other_time, other_place = where(other)
            if other_clip != clip:
                kinds["easy"] += 1
            elif other_place != place:
                kinds["spatial"] += 1
            elif other_time != time:
                kinds["temporal"] += 1
            else:
                kinds["positive"] += 1
        assert kinds == {
            "positive": 1,
            "spatial": (places - 1) * frames,
            "temporal": frames - 1,
            "easy": (batch - 1) * places * frames,
        }


def test_predictions_pair_with_all_future_frames_of_the_clip() -> None:
    predicted, _, positive = pair_with_future(torch.rand(1, 4, 1, 3, 2), torch.rand(1, 4, 1, 2))
    assert len(predicted) == 3 + 2 + 1
    assert positive.tolist() == [1, 2, 3, 2, 3, 3]
    # Offsets beyond the end of the clip are left out.
    assert len(pair_with_future(torch.rand(1, 2, 1, 3, 2), torch.rand(1, 2, 1, 2))[0]) == 1
    with pytest.raises(ValueError, match="at least 2 frames"):
        pair_with_future(torch.rand(1, 1, 1, 3, 2), torch.rand(1, 1, 1, 2))
    with pytest.raises(ValueError, match="like the predictions"):
        pair_with_future(torch.rand(1, 4, 1, 3, 2), torch.rand(1, 4, 2, 2))


def test_accuracy_computed_in_blocks_counts_nearest_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hcml_lightning.losses.contrastive.BLOCK", 50 * 1024)
    torch.manual_seed(0)
    targets = torch.randn(50, 16)
    positive = torch.randint(0, 50, (3000,))
    predicted = targets[positive].clone()
    predicted[:600] = -predicted[:600]
    assert float(contrastive_accuracy(predicted, targets, positive)) == pytest.approx(0.8)


def test_predictions_that_are_not_numbers_are_never_right() -> None:
    targets = torch.eye(3)
    predicted = targets.clone()
    predicted[0] = torch.nan
    accuracy = contrastive_accuracy(predicted, targets, torch.arange(3))
    assert float(accuracy) == pytest.approx(2 / 3)


def test_uninformative_predictions_cost_log_of_the_number_of_targets() -> None:
    targets = torch.randn(30, 4)
    loss = contrastive_loss(torch.zeros(5, 4), targets, torch.arange(5))
    assert float(loss) == pytest.approx(math.log(30))


def test_sampled_locations_are_distinct_cells_of_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = sample_locations(64, 5, 7, 10, generator=generator)
    assert drawn.shape == (64, 10)
    assert drawn.min() >= 0
    assert drawn.max() < 35
    assert all(len(set(row)) == 10 for row in drawn.tolist())
    assert len(set(drawn.flatten().tolist())) == 35
    assert sorted(sample_locations(1, 2, 3, 99)[0].tolist()) == list(range(6))
    assert sample_locations(2, 5, 7, 1).shape == (2, 1)
    with pytest.raises(ValueError, match="num_locations"):
        sample_locations(1, 2, 3, 0)


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        (torch.tensor([0, 4]), "got 0..4"),
        (torch.tensor([-1, 0]), "got -1..0"),
        (torch.tensor([0]), "P = 2"),
        (torch.zeros(2), "int64"),
    ],
)
def test_wrong_positives_are_refused(positive: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.rand(2, 3), torch.rand(4, 3), positive)


def test_wrong_arguments_are_refused() -> None:
    index = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="share C"):
        contrastive_loss(torch.rand(2, 3), torch.rand(4, 5), index)
    with pytest.raises(ValueError, match="at least one prediction, got P = 0"):
        contrastive_loss(torch.rand(0, 3), torch.rand(4, 3), index[:0])
    with pytest.raises(ValueError, match="at least one prediction, got P = 0"):
        contrastive_accuracy(torch.rand(0, 3), torch.rand(4, 3), index[:0])
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        contrastive_loss(torch.rand(2, 3), torch.rand(4, 3), index, temperature=0)


@pytest.mark.parametrize("fine", [0, 1])
def test_predictions_and_targets_may_differ_in_precision(fine: int) -> None:
    dtypes = [torch.float32, torch.float32]
    dtypes[fine] = torch.float64
    x = torch.eye(3)
    predicted, targets = x.to(dtypes[0], copy=True).requires_grad_(), x.to(dtypes[1])
    loss = contrastive_loss(predicted, targets, torch.arange(3), temperature=0.5)
    loss.backward()
    expected = slow_loss(x, x, torch.arange(3), 0.5)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert predicted.grad.dtype == predicted.dtype
    assert float(contrastive_accuracy(predicted, targets, torch.arange(3))) == 1


def test_second_derivative_and_nan_temperature_are_refused() -> None:
    predicted, targets, positive = (
        torch.randn(3, 4, requires_grad=True),
        torch.randn(5, 4),
        torch.arange(3),
    )
    with pytest.raises(NotImplementedError, match="differentiated only once"):
        torch.autograd.grad(
            contrastive_loss(predicted, targets, positive), predicted, create_graph=True
        )
    with pytest.raises(ValueError, match="temperature must be greater than 0, got nan"):
        contrastive_loss(predicted, targets, positive, temperature=float("nan"))


def test_temperature_that_would_get_no_gradient_is_refused() -> None:
    rows = torch.eye(4)
    temperature = torch.tensor(0.07, requires_grad=True)
    with pytest.raises(ValueError, match="temperature gets no gradient"):
        contrastive_loss(rows, rows, torch.arange(4), temperature)  # type: ignore[arg-type]
    contrastive_loss(rows, rows, torch.arange(4), temperature.detach())  # type: ignore[arg-type]
