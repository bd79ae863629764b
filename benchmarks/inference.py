"""Compare inference with that of a plain network on the same frames and of torchvision's video networks.

`python benchmarks/inference.py --device cuda --dtype bfloat16 --shapes 8x3x16x224x224` times the forward pass, from a
clip of uint8 pixels to logits; "+ compiled" uses `torch.compile`, and "+ contiguous weights" has weights that are not
in the memory format of the features. The roofline is the time for the network's operations at the measured peak rate;
its share of the measured time is the utilisation.
"""

import sys

import measure
import report
import torch
from networks import NETWORKS, contiguous_
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcml_lightning.models.backbones import keep_channels_last_

VARIANTS = ("", " + contiguous weights", " + compiled")


def prepared(name: str, device: str) -> nn.Module:
    """Return a network with random weights, which are the same for all variants of a name."""
    torch.manual_seed(0)
    network = NETWORKS[name.split(" + ")[0]]().to(device).eval()
    keep_channels_last_(network)
    if name.endswith(VARIANTS[1]):
        contiguous_(network)
    return measure.compiled(network) if name.endswith(VARIANTS[2]) else network


def work_of(name: str, subject: report.Subject, clip: Tensor) -> measure.Work:
    """Return the forward pass of a network."""
    network = prepared(name, subject.device)

    def forward() -> Tensor:
        with torch.autocast(subject.device, subject.dtype, subject.dtype != torch.float32):
            return network(clip)

    return measure.Work(forward)


@torch.no_grad()
def benchmark(
    subject: report.Subject, limits: tuple[float, float], names: list[str], repeats: int
) -> list[dict[str, object]]:
    """Check that the variants of a network compute the same as the network, then time all in turns."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, subject.shape, generator=generator, dtype=torch.uint8)
    clip = clip.to(subject.device)
    made, works = [], {name: work_of(name, subject, clip) for name in names}
    for name, work in works.items():
        base = name.split(report.VARIANT)[0]
        if base != name:
            plain = works.get(base) or work_of(base, subject, clip)
            measure.require_close(name, [work.forward()], [plain.forward().double()])
    peaks = {name: measure.peak_mb(work, subject.device) for name, work in works.items()}
    sets = {name: [work] for name, work in works.items()}
    for name, times in measure.measure(sets, subject.device, repeats, graphs=True).items():
        operations = operations_of(name.split(report.VARIANT)[0], clip)
        floor = measure.roofline_ms(measure.Floor(operations=operations), limits)
        made += report.rows(subject, {name: times}, peaks, {"forward": floor})
    return made


def operations_of(name: str, clip: Tensor) -> int:
    """Return the number of floating point operations of a network's forward pass."""
    with torch.device("meta"):
        network = NETWORKS[name]().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(clip.to("meta"))
    return counter.get_total_flops()


def main() -> None:
    """Benchmark all shapes and record the rows."""
    options = report.parser(__doc__, "inference").parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    limits = measure.ceilings(options.device, dtype)
    names = [n + v for n in NETWORKS for v in VARIANTS if "ours" in n or v != VARIANTS[1]]
    names = report.chosen(names, options.providers)
    default = (8, 3, 16, 224, 224) if options.device == "cuda" else (1, 3, 8, 112, 112)
    left_out: list[str] = []
    for shape in options.shapes or [default]:
        subject = report.Subject("inference", shape, dtype, options.device)
        # One by one on a GPU, to record each before time runs out; in turns on a CPU, so that load affects all alike.
        groups = [names] if options.device == "cpu" else [[name] for name in names]
        for group in groups:
            # A failure, for example for lack of memory or of a compiler, must not stop the others.
            try:
                rows = benchmark(subject, limits, group, options.repeats)
            except Exception as error:
                print(f"{', '.join(group)}: left out: {error}", file=sys.stderr, flush=True)
                left_out += group
                continue
            report.record(rows, options.output)
    if left_out:
        sys.exit(f"left out: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
