"""[features of all processes → **one mean and variance** → features]

Batch norm over all processes, on CPUs too: PyTorch's own does it on GPUs alone, and refuses the rest.
"""

from typing import Any, cast

import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CPUSyncBatchNorm(_BatchNorm):
    """A batch norm that, in training, takes its statistics over all processes; made by `SyncEverywhere`."""

    kind: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features (B, C, ...) by the statistics of all processes in training, by the running ones else."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        # Autocast hands over half precision, which cannot hold the sums; the running statistics are finer.
        features = input.to(torch.promote_types(input.dtype, torch.float32))
        number = features.new_tensor([features.numel() / features.shape[1]])
        sums = _over_all(torch.cat([features.sum(dims), number]))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = features - mean.view(shape)
        variance = _over_all(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected features (B, C, ...), got {tuple(input.shape)}")

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        state = (self.num_batches_tracked, self.running_mean, self.running_var, self.momentum)
        batches, running_mean, running_var, momentum = cast(
            "tuple[Tensor, Tensor, Tensor, float]", state
        )
        batches.add_(1)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(variance.to(running_var.dtype), momentum)


SYNCHRONISED = (nn.SyncBatchNorm, CPUSyncBatchNorm)


class SyncEverywhere(TorchSyncBatchNorm):
    """What `Trainer(sync_batchnorm=True)` does, on CPUs too: given as a plugin in its place.

    Attributes:
        on_cpu: whether the model is to run on CPUs. Its parameters do not say: a trainer moves them afterwards.
    """

    on_cpu = True

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise all batch norms of a model.

        Raises:
            ValueError: on CPUs, if one has no weight, no running statistics, or a momentum that is no number.
        """
        if not self.on_cpu:
            return super().apply(model)
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                if not module.affine or not module.track_running_stats or module.momentum is None:
                    raise ValueError(
                        f"sync_batchnorm on CPUs knows only batch norms that are affine, track statistics and have a "
                        f"momentum; {name} is {module}. Make it such a one, or set sync_batchnorm=false"
                    )
                # They hold the very same things; copies would part the optimizer from the parameters.
                kind = type(module)
                module.__class__ = CPUSyncBatchNorm
                cast("CPUSyncBatchNorm", module).kind = kind
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Give each batch norm back to its device."""
        for module in model.modules():
            if isinstance(module, CPUSyncBatchNorm):
                module.__class__ = module.kind  # type: ignore[assignment]
        return super().revert(model)


class _SumOverAll(torch.autograd.Function):
    # PyTorch's own differentiable sum is deprecated, and what it names instead is private.
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every process's loss depends on what this one has put in.
        total = grad.clone()
        distributed.all_reduce(total)
        return total


def _over_all(sums: Tensor) -> Tensor:
    return cast("Tensor", _SumOverAll.apply(sums))
