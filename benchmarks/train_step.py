"""Time training steps of all our stages, and of classification by a plain network and torchvision's video networks.

`python benchmarks/train_step.py --device cuda --dtype bfloat16 --shapes 8x3x16x224x224` times forward, loss, backward
and SGD on one batch of uint8 clips, without Lightning's loop. "ours" is joint training with all terms of Eq. 5, and
"ours without motion blocks" its baseline. The roofline is the time for the operations of both passes at the measured
peak rate; its share of the measured time is the utilisation.
"""

import sys
from collections.abc import Callable
from typing import Any

import measure
import report
import torch
import torch._inductor.config
import torch.nn.functional as F
from networks import NETWORKS, NUM_CLASSES, contiguous_
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcml_lightning.models.backbones import keep_channels_last_
from hcml_lightning.models.prime_motion import MotionExtractor
from hcml_lightning.tasks import ContrastTask, FlowTask, MotionTask, RecognitionTask

# No dropout, because compiled code may drop other features than eager code, and their losses are compared.
RECOGNITION: dict[str, Any] = {"num_classes": NUM_CLASSES, "dropout": 0.0}
TASKS: dict[str, Callable[[str], MotionTask]] = {
    "ours": lambda b: RecognitionTask(backbone=b, **RECOGNITION),
    "ours motion blocks only": lambda b: RecognitionTask(
        backbone=b, flow_weight=0, contrast_weights=(0, 0), **RECOGNITION
    ),
    "ours without motion blocks": lambda b: RecognitionTask(backbone=b, levels=(), **RECOGNITION),
    "ours flow": lambda b: FlowTask(backbone=b),
    "ours contrast 1": lambda b: ContrastTask(level=1, backbone=b),
    "ours contrast 2": lambda b: ContrastTask(level=2, backbone=b),
}
PEERS = ("resnet50", "r3d_18", "r2plus1d_18")
VARIANTS = (
    *("", " + contiguous weights", " + compiled", " + searched convolutions"),
    " + padded motion",
)

Batch = dict[str, Any]


class Padded(nn.Module):
    """A convolution whose input channels are padded with zeros to a multiple of 8, as tensor cores need.

    Args:
        conv: convolution with any number of input channels.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """Return what the convolution returns."""
        lack = (0, 0, 0, 0, 0, -features.shape[1] % 8)
        weight = F.pad(self.conv.weight, lack)
        return F.conv2d(F.pad(features, lack), weight, padding=self.conv.padding)


class Classification(nn.Module):
    """A training step of a classification network that is not a stage of ours.

    Args:
        network: network of clips, (B, 3, T, H, W) → (B, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self.network(batch["video"]), batch["label"])


class Stage(nn.Module):
    """A training step of one of our stages; modules that it does not train are frozen and in eval mode, as in a run.

    Args:
        task: task of the stage.
    """

    def __init__(self, task: MotionTask) -> None:
        super().__init__()
        self.task = task
        task.requires_grad_(False).eval()
        for module in task.trained_modules():
            module.requires_grad_(True).train()

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of the stage."""
        return self.task.training_step(batch, 0)


def step_of(name: str, backbone: str, device: str) -> nn.Module:
    """Return a step with random weights, which are the same for all variants of a name."""
    torch.manual_seed(0)
    base = name.split(" + ")[0]
    if base in TASKS:
        step: nn.Module = Stage(TASKS[base](backbone))
    else:
        step = Classification(NETWORKS[base]())
        keep_channels_last_(step)
    if VARIANTS[4] in name:
        for module in list(step.modules()):
            if isinstance(module, MotionExtractor):
                module.mix = Padded(module.mix)
    return (contiguous_(step) if VARIANTS[1] in name else step).to(device)


def work(name: str, backbone: str, subject: report.Subject) -> measure.Work:
    """Return the forward pass, and the backward pass with the optimizer's step."""
    # As set by `--trainer.benchmark true`.
    torch.backends.cudnn.benchmark = VARIANTS[3] in name
    step = step_of(name, backbone, subject.device)
    forward = measure.compiled(step) if VARIANTS[2] in name else step
    trained = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    batch = batch_of(subject.shape, subject.device)

    def loss() -> Tensor:
        with torch.autocast(subject.device, subject.dtype, subject.dtype != torch.float32):
            return forward(batch)

    def backward(value: Tensor) -> None:
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return measure.Work(loss, backward)


def batch_of(shape: tuple[int, ...], device: str) -> Batch:
    """Return random clips and labels."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    label = torch.randint(NUM_CLASSES, shape[:1], generator=generator)
    index = torch.arange(len(clip), device=device)
    return {"video": clip.to(device), "label": label.to(device), "index": index}


def operations_of(name: str, backbone: str, shape: tuple[int, ...]) -> int:
    """Return the number of floating point operations of both passes."""
    with torch.device("meta"):
        step = step_of(name, backbone, "meta")
        with FlopCounterMode(display=False) as counter:
            step(batch_of(shape, "meta")).backward()
    return counter.get_total_flops()


def checked(name: str, backbone: str, subject: report.Subject) -> measure.Work:
    """Return a step, after comparing the first loss of a variant with that of the plain step in float32.

    Raises:
        ArithmeticError: if the losses differ by more than the dtype allows.
    """
    plain = name.split(" + ")[0]
    if name == plain:
        return work(name, backbone, subject)
    exact = _first_loss(work(plain, backbone, subject._replace(dtype=torch.float32)))
    # Made after the plain step, because making a step sets how cuDNN chooses convolutions in the whole process.
    made = work(name, backbone, subject)
    # Compared with the tolerance of the dtype: compiled code rounds to half precision in other places than eager code.
    measure.require_close(name, [_first_loss(made).to(subject.dtype)], [exact])
    return made


def _first_loss(made: measure.Work) -> Tensor:
    torch.manual_seed(0)
    return made.forward().detach().double()


def main() -> None:
    """Benchmark all steps and record the rows."""
    parser = report.parser(__doc__, "train_step")
    parser.add_argument("--backbone", default="r2d50", help="of ours")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Compiled code must draw the same random locations as eager code, or its loss could not be checked.
    torch._inductor.config.fallback_random = True
    dtype = getattr(torch, options.dtype)
    limits = measure.ceilings(options.device, dtype)
    plain = "ours without motion blocks"
    names = [n + v for n in TASKS for v in VARIANTS if n != plain or v != VARIANTS[4]]
    names += [n + v for n in PEERS for v in VARIANTS if v not in (VARIANTS[1], VARIANTS[4])]
    default = (8, 3, 16, 224, 224) if options.device == "cuda" else (2, 3, 8, 112, 112)
    left_out: list[str] = []
    for shape in options.shapes or [default]:
        op = f"train_step {options.backbone}"
        subject = report.Subject(op, shape, dtype, options.device)
        for name in report.chosen(names, options.providers):
            # A failure, for example for lack of memory or of a compiler, must not stop the others.
            try:
                made = checked(name, options.backbone, subject)
                peaks = {name: measure.peak_mb(made, options.device)}
                samples = measure.measure({name: [made]}, options.device, options.repeats)
            except Exception as error:
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
                left_out.append(name)
                continue
            operations = operations_of(name.split(" + ")[0], options.backbone, shape)
            floor = measure.roofline_ms(measure.Floor(operations=operations), limits)
            report.record(report.rows(subject, samples, peaks, {"both": floor}), options.output)
    if left_out:
        sys.exit(f"left out: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
