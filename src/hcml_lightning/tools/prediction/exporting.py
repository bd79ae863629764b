"""[checkpoint → **network in other formats**]

The recogniser without its side branch as a PyTorch program (.pt2), as ONNX, and as weights in safetensors, each with
class names and preprocessing inside. Each program is run once, and compared with the network, before it is saved under
its final name.
"""

import copy
import functools
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from hcml_lightning._version import __version__
from hcml_lightning.ops.cost_volume_portable import cost_volume_portable
from hcml_lightning.storage import whole
from hcml_lightning.tools.prediction.recognizer import Recognizer

# Name of the entry in each file that holds the description.
METADATA = "hcml_lightning.json"
# Largest difference allowed between the logits of a program and of the network, relative to the larger of 1 and the
# largest absolute logit.
TOLERANCE = 1e-4
EXPORTED_BATCH, CHECKED_BATCH = 2, 3


class ExportError(RuntimeError):
    """The export gave no program, or one that computes something else than the network."""


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: of the file.
        difference: largest difference from the network's logits, on random clips; 0 for weights alone.
    """

    path: Path
    difference: float


def export(
    recognizer: Recognizer, folder: str | os.PathLike[str], formats: Sequence[str] = ()
) -> list[Exported]:
    """Write the network as `recognizer.pt2`, `recognizer.onnx` and `recognizer.safetensors`.

    Programs take uint8 clips (B, 3, T, H, W) of any batch size B, and return logits (B, K). A file appears only once it
    is complete and its program is known to compute what the network does.

    Args:
        recognizer: on the CPU.
        folder: to write to.
        formats: some of `pt2`, `onnx` and `safetensors`; all if empty.

    Raises:
        ImportError: if a package that a format needs is not installed.
        ExportError: if there is no program, or it computes something else than the network.
    """
    names = list(formats) or list(WRITERS)
    for name in names:
        _require(name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(describe(recognizer), indent=2, ensure_ascii=False)
    # Trace the network at most once, and only if a format needs it.
    trace = functools.cache(lambda: export_program(recognizer))
    written = []
    for name in names:
        path = folder / f"recognizer.{name}"
        with whole(path, f".part.{name}") as partial:
            run = WRITERS[name](recognizer, trace, content, partial)
            difference = _difference(recognizer, run) if run is not None else 0.0
        written.append(Exported(path, difference))
    return written


def describe(recognizer: Recognizer) -> dict[str, Any]:
    """Return the description that is needed to use the network without this package."""
    recipe = recognizer.recipe
    return {
        "class_names": list(recognizer.class_names),
        "input": {
            "name": "clip",
            "shape": ["batch", 3, recipe.clip_length, recipe.crop_size, recipe.crop_size],
            "dtype": "uint8",
            "values": "RGB in 0..255; mean and standard deviation are part of the network",
        },
        "output": {"name": "logits", "shape": ["batch", len(recognizer.class_names)]},
        "preprocessing": {
            "clip_length": recipe.clip_length,
            "frame_stride": recipe.frame_stride,
            "short_side": recipe.short_side[0],
            "crop_size": recipe.crop_size,
            "clips": recipe.num_clips,
            "crops": recipe.num_crops,
        },
        "architecture": recognizer.architecture,
        "made_by": f"hcml_lightning {__version__}, torch {torch.__version__}",
    }


def export_program(recognizer: Recognizer) -> ExportedProgram:
    """Trace the network for clips of any batch size into a program that has only operators of PyTorch itself."""
    network = copy.deepcopy(recognizer.network).eval()
    # torch.export.save takes weights in another memory format (here channels last) for slices of larger tensors.
    for weight in network.parameters():
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    program = torch.export.export(
        network,
        (_random_clips(recognizer, EXPORTED_BATCH),),
        dynamic_shapes={"clip": {0: Dim("batch", min=1)}},
    )
    # Our operator is not registered in a process that loads the program without this package.
    operator = torch.ops.hcml.cost_volume.default
    plain: ExportedProgram = program.run_decompositions({operator: cost_volume_portable})
    return plain


Run = Callable[[Tensor], Tensor]
Trace = Callable[[], ExportedProgram]


def _write_pt2(recognizer: Recognizer, trace: Trace, content: str, path: Path) -> Run:
    torch.export.save(trace(), path, extra_files={METADATA: content})
    run: Run = torch.export.load(path).module()
    return run


def _write_onnx(recognizer: Recognizer, trace: Trace, content: str, path: Path) -> Run:
    import onnxruntime

    made = torch.onnx.export(
        trace(),
        input_names=["clip"],
        output_names=["logits"],
        dynamic_shapes={"clip": {0: "batch"}},
        dynamo=True,
        verbose=False,
    )
    if made is None:
        raise ExportError("torch.onnx.export returned no program; try another release of torch")
    made.model.metadata_props[METADATA] = content
    made.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run(["logits"], {"clip": clip.numpy()})[0])


def _write_safetensors(recognizer: Recognizer, trace: Trace, content: str, path: Path) -> None:
    from safetensors.torch import save

    state = {k: v.contiguous() for k, v in recognizer.network.state_dict().items()}
    # Not `save_file`, because it creates a file that only its owner may read.
    path.write_bytes(save(state, metadata={"format": "pt", METADATA: content}))


WRITERS: Mapping[str, Callable[[Recognizer, Trace, str, Path], Run | None]] = {
    "pt2": _write_pt2,
    "onnx": _write_onnx,
    "safetensors": _write_safetensors,
}
PACKAGES = {
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
}


def _require(name: str) -> None:
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(
            f"the format {name} needs {', '.join(missing)}: pip install 'hcml-lightning[export]'"
        )


def _random_clips(recognizer: Recognizer, batch: int) -> Tensor:
    recipe = recognizer.recipe
    shape = (batch, 3, recipe.clip_length, recipe.crop_size, recipe.crop_size)
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(batch)
    )


@torch.no_grad()
def _difference(recognizer: Recognizer, run: Run) -> float:
    """Return the largest difference from the network's logits, on random clips of another batch size than was traced.

    Raises:
        ExportError: if the difference is larger than rounding can explain.
    """
    clips = _random_clips(recognizer, CHECKED_BATCH)
    expected = recognizer.network(clips)
    difference = float((run(clips) - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ExportError(
            f"the exported program differs from the network by {difference:.1e} on random clips; nothing was written. "
            "Try another release of torch or onnxruntime"
        )
    return difference
