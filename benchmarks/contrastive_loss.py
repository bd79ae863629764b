"""Compare the contrastive loss with a matrix of all similarities and with PyTorch's own streaming loss.

`python benchmarks/contrastive_loss.py --shapes 12288x4096x64` times forward and backward for P predictions, S targets
and C channels (PxSxC). All providers get the same vectors, normalise them, and compute no gradient of the targets.
"""

from collections.abc import Callable
from functools import partial

import measure
import report
import torch
import torch.nn.functional as F
from torch import Tensor

from hcml_lightning.losses import contrastive_loss

SHAPES = ((2048, 1024, 128), (12288, 4096, 64), (12288, 4096, 256))
TEMPERATURE = 0.07

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def all_similarities(predicted: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Return Eq. 2 as usually implemented: normalise, one matrix product, cross-entropy."""
    with torch.autocast(predicted.device.type, enabled=False):
        rows = F.normalize(predicted.float(), dim=1)
        columns = F.normalize(targets.float(), dim=1)
        return F.cross_entropy(rows @ columns.T / TEMPERATURE, positive)


def linear_cross_entropy(predicted: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Return PyTorch's own loss without the matrix of all logits, available in 2.13 and newer."""
    rows = F.normalize(predicted.float(), dim=1) / TEMPERATURE
    columns = F.normalize(targets.float(), dim=1)
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(rows, columns, positive, options=options)


def providers() -> dict[str, Loss]:
    """Return all providers that are available here."""
    found: dict[str, Loss] = {
        "ours": partial(contrastive_loss, temperature=TEMPERATURE),
        "eager": all_similarities,
        "compiled": torch.compile(all_similarities, dynamic=False),
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["linear_cross_entropy"] = linear_cross_entropy
    return found


def results(loss: Loss, predicted: Tensor, targets: Tensor, positive: Tensor) -> list[Tensor]:
    """Return the loss and the gradient of the predictions."""
    leaf = predicted.detach().requires_grad_()
    value = loss(leaf, targets, positive)
    return [value.detach(), *torch.autograd.grad(value, leaf)]


def work(loss: Loss, predicted: Tensor, targets: Tensor, positive: Tensor) -> measure.Work:
    """Return the forward and backward pass of one provider."""
    leaf = predicted.detach().requires_grad_()
    return measure.Work(
        lambda: loss(leaf, targets, positive), lambda value: torch.autograd.grad(value, leaf)
    )


def benchmark(
    subject: report.Subject, limits: tuple[float, float], names: list[str] | None, repeats: int
) -> list[dict[str, object]]:
    """Check, then time, all providers on one shape."""
    predictions, targets, channels = subject.shape
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randn(n, channels, generator=generator).to(subject.device, subject.dtype)
        for n in (predictions, targets)
    )
    positive = torch.randint(targets, (predictions,), generator=generator).to(subject.device)
    functions = providers()
    functions = {name: functions[name] for name in report.chosen(functions, names)}
    double = rows.double().requires_grad_()
    similar = F.normalize(double, dim=1) @ F.normalize(columns.double(), dim=1).T
    value = F.cross_entropy(similar / TEMPERATURE, positive)
    expected = [value.detach(), *torch.autograd.grad(value, double)]
    del similar, value
    checks = {n: partial(results, f, rows, columns, positive) for n, f in functions.items()}
    works = {
        name: [work(functions[name], rows, columns, positive)]
        for name in measure.only_right(checks, expected)
    }
    peaks = {name: measure.peak_mb(sets[0], subject.device) for name, sets in works.items()}
    samples = measure.measure(works, subject.device, repeats, graphs=True)
    size = subject.dtype.itemsize
    # One product for the logits, and one of their exponentials with the targets, for the gradient.
    both = measure.Floor(
        (2 * predictions + targets) * channels * size, 4 * predictions * targets * channels
    )
    return report.rows(subject, samples, peaks, {"both": measure.roofline_ms(both, limits)})


def main() -> None:
    """Benchmark all shapes and record the rows."""
    options = report.parser(__doc__, "contrastive_loss").parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    limits = measure.ceilings(options.device, torch.float32)
    for shape in options.shapes or SHAPES:
        subject = report.Subject("contrastive_loss", shape, dtype, options.device)
        made = benchmark(subject, limits, options.providers, options.repeats)
        report.record(made, options.output)


if __name__ == "__main__":
    main()
