"""[residual block → **the same with less memory**]

Activation checkpointing: keep only the inputs of a block, and run it again when its gradient is computed.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any) -> Tensor:
    """Run a module without keeping its activations; the backward pass computes them again.

    Gives the same values, gradients and batch-norm statistics as `module(*inputs)`, provided the module is not random.

    Args:
        module: a module that returns one tensor.
        *inputs: its arguments.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_held(module)

    output: Tensor = checkpoint(
        module, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return output


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    # A batch must update the statistics only once, although it is run twice. Momentum 0 keeps them unchanged but leaves
    # them in use, because the second run must be the same operation as the first.
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    held = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in held:
        # A copy instead of None, because synchronised batch norms increment the counter without checking for None.
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in held:
            norm.momentum, norm.num_batches_tracked = momentum, count
