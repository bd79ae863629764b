"""[residual block → **the same with less memory**]

Activation checkpointing: keep what goes into a block, and run it once more when its gradient is wanted.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any) -> Tensor:
    """Run a module without keeping what its backward pass needs; that is computed anew.

    The same values, gradients and statistics of batch norms as `module(*inputs)`; the module must not be random.

    Args:
        module: gives one tensor.
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
    # A batch counts once, however often it is run. The norms still read their statistics: what is computed anew must
    # be the same operation.
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    held = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in held:
        # Synchronised ones count without asking whether there is a counter.
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in held:
            norm.momentum, norm.num_batches_tracked = momentum, count
