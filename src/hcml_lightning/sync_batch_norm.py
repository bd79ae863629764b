"""[features of all processes → **one mean and variance** → features]

Batch norm over all processes, on CPUs too: PyTorch's own supports only GPUs and refuses other devices.
"""

from typing import Any, cast

import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CPUSyncBatchNorm(_BatchNorm):
    """Batch norm that takes its statistics over all processes in training; `SyncEverywhere` creates it."""

    kind: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise features (B, C, ...), in distributed training by the statistics of all processes."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        # Autocast passes half precision, which cannot hold the sums; the running statistics are more precise too.
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
    """Plugin to be used instead of `Trainer(sync_batchnorm=True)`, because it works on CPUs too.

    Attributes:
        on_cpu: whether the model will run on CPUs. Its parameters do not tell, because the trainer moves them later.
    """

    on_cpu = True

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise all batch norms of a model.

        Raises:
            ValueError: on CPUs, if a batch norm has no weight, no running statistics, or no momentum.
        """
        if not self.on_cpu:
            return super().apply(model)
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                if not module.affine or not module.track_running_stats or module.momentum is None:
                    raise ValueError(
                        "sync_batchnorm on CPUs supports only batch norms that are affine, track statistics and have "
                        f"a momentum, but {name} is {module}; change it, or set sync_batchnorm=false"
                    )
                # Only the class is changed, because both have the same attributes, and copies of the parameters would
                # not be those of the optimizer.
                kind = type(module)
                module.__class__ = CPUSyncBatchNorm
                cast("CPUSyncBatchNorm", module).kind = kind
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original class of each batch norm."""
        for module in model.modules():
            if isinstance(module, CPUSyncBatchNorm):
                module.__class__ = module.kind  # type: ignore[assignment]
        return super().revert(model)


class _SumOverAll(torch.autograd.Function):
    # PyTorch's own differentiable all-reduce is deprecated, and the replacement that it names is private.
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The loss of every process depends on the sums of this one.
        total = grad.clone()
        distributed.all_reduce(total)
        return total


def _over_all(sums: Tensor) -> Tensor:
    return cast("Tensor", _SumOverAll.apply(sums))
