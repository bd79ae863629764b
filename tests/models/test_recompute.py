"""Recomputing blocks in the backward pass saves memory and changes nothing else."""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from hcml_lightning.models import MotionHierarchy
from hcml_lightning.models.network import MotionNetwork
from hcml_lightning.sync_batch_norm import SyncEverywhere


def networks(backbone: str = "r2d_tiny") -> list[MotionNetwork]:
    made = []
    for recompute in (False, True):
        torch.manual_seed(0)
        made.append(MotionHierarchy(backbone, 4, dropout=0.0, recompute=recompute).network)
        with torch.no_grad():
            for parameter in made[-1].parameters():
                if not parameter.any():  # a zero weight would hide the layers before it
                    torch.nn.init.uniform_(parameter, 0.1, 0.2)
    return made


def clip() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, 4, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.fixture(params=[False, True], ids=["one process", "synchronised"])
def synchronised(request: pytest.FixtureRequest) -> Iterator[bool]:
    if request.param:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield request.param
    if request.param:
        distributed.destroy_process_group()


@pytest.mark.parametrize("frozen", [0, 2])
def test_recompute_changes_no_value_gradient_or_statistic(frozen: int, synchronised: bool) -> None:
    gradients, states = [], []
    for network in networks():
        if synchronised:
            SyncEverywhere().apply(network)
        network.train()
        for stage in network.stages[:frozen]:
            stage.requires_grad_(False).eval()
        loss = network(clip()).square().mean()
        loss.backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
        states.append({**network.state_dict(), "loss": loss.detach()})
    assert len(gradients[0]) == len(gradients[1]) > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_recompute_keeps_less_for_the_backward_pass() -> None:
    kept = []
    for network in networks():
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = sum(p.untyped_storage().nbytes() for p in network.parameters())
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = network.train()(clip()).sum()
        kept.append(sum(sizes.values()) - weights)
        loss.backward()
    assert kept[1] < kept[0] / 2


def test_only_blocks_in_training_mode_are_recomputed() -> None:
    network = networks()[1].train()
    network.layer1.eval()
    runs = {"layer1": 0, "layer2": 0}
    for name in runs:

        def count(*_: object, name: str = name) -> None:
            runs[name] += 1

        getattr(network, name)[0].conv1.register_forward_hook(count)
    network(clip()).sum().backward()
    assert runs == {"layer1": 1, "layer2": 2}
