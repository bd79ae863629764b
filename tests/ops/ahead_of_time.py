"""Compile the Triton kernels for GPUs that this machine lacks; print the needs of the machine code as JSON.

Run as a program, in a process of its own, since the interpreter must be off when the kernels are imported:
`python ahead_of_time.py sm_80 bfloat16 channels_last`. The launchers themselves choose all arguments; only the launch
is replaced.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hcml_lightning.ops import cost_volume
from hcml_lightning.ops import cost_volume_triton as kernels
from hcml_lightning.ops.cost_volume import NORM_EPS

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
LEVELS = {"res2": (8, 32, 16, 56, 56), "res4": (8, 128, 4, 14, 14)}
INSTRUCTIONS = ("HGMMA", "HMMA", "FFMA", "LDG", "STG", "LDS", "STS", "SHFL", "STL", "LDL")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class Recorder:
    """A stand-in for a kernel that records the arguments of each launch."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel = kernel.kernel if isinstance(kernel, Recorder) else kernel
        self.launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            named = dict(zip(self.kernel.arg_names, args, strict=False))
            self.launches.append((self.kernel, named | kwargs))

        return launch


def compile_launch(kernel: Any, arguments: dict[str, Any], capability: int) -> dict[str, Any]:
    """Compile one launch for one GPU; specialise on ones and multiples of 16 as a launch does."""
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif kernel.params[position].is_constexpr or value == 1:
            signature[name] = "constexpr"
            constants[(position,)] = value
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = dump("-res-usage", file.name)
        code = dump("-sass", file.name)
    registers, stack, local = re.search(r"REG:(\d+).*?STACK:(\d+).*?LOCAL:(\d+)", usage).groups()
    return {
        "kernel": kernel.fn.__name__,
        "registers": int(registers),
        "stack": int(stack),
        "local": int(local),
        "shared": compiled.metadata.shared,
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        **{name: len(re.findall(rf"\b{name}\b", code)) for name in INSTRUCTIONS},
        "jumps": jumps(code),
    }


def jumps(code: str) -> list[tuple[int, int]]:
    """Jumps in machine code as (from, to) instruction numbers, from 0: loops jump back, branches ahead."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", code, re.MULTILINE)
    places = {int(address, 16): place for place, (address, _) in enumerate(lines)}
    found = [re.search(r"\bBRA\b.* (0x[0-9a-f]+)", text) for _, text in lines]
    return [
        (place, places[int(jump[1], 16)])
        for place, jump in enumerate(found)
        if jump and places[int(jump[1], 16)] != place  # code ends with a jump to itself
    ]


def dump(option: str, path: str) -> str:
    """Output of NVIDIA's disassembler, which comes with Triton, for a file."""
    done = subprocess.run([CUOBJDUMP, option, path], capture_output=True, text=True, check=True)
    return done.stdout


def launches(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: str
) -> list[tuple[Any, dict[str, Any]]]:
    """All launches of a forward and a backward pass, with their arguments."""
    noted: list[tuple[Any, dict[str, Any]]] = []
    for name in ("unit_kernel", "cost_volume_fwd_kernel", "cost_volume_bwd_kernel"):
        setattr(kernels, name, Recorder(getattr(kernels, name), noted))
    features = torch.empty(shape, dtype=dtype, device="meta")
    features = features.to(memory_format=FORMATS[memory_format])
    costs = cost_volume(features)
    kernels.write_costs(features, costs, 6, 2, NORM_EPS)
    kernels.write_gradient(costs, features, torch.empty_like(features), 6, 2, NORM_EPS)
    unit, forward, _, backward = noted
    return [unit, forward, backward]


def main(gpu: str, dtype: str, memory_format: str) -> None:
    """Compile for the widest maps and the most channels of R2D-50; print one JSON object a line."""
    for level, shape in LEVELS.items():
        for kernel, arguments in launches(shape, getattr(torch, dtype), memory_format):
            row = compile_launch(kernel, arguments, int(gpu.removeprefix("sm_")))
            print(json.dumps(row | {"level": level}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
