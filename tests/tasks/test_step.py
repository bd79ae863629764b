"""What a training step must avoid in order to run at the speed of its device."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hcml_lightning.optim import make_optimizer, parameter_groups
from hcml_lightning.tasks import ContrastTask, FlowTask, MotionTask, ProbeTask, RecognitionTask

STAGES: dict[str, Callable[..., MotionTask]] = {
    "flow": FlowTask,
    "contrast 1": lambda **k: ContrastTask(level=1, **k),
    "contrast 2": lambda **k: ContrastTask(level=2, **k),
    "recognition": RecognitionTask,
    "baseline": lambda **k: RecognitionTask(**{**k, "levels": ()}),
    "probe": lambda **k: ProbeTask(level=1, **k),
}
stages = pytest.mark.parametrize("stage", STAGES)


def ready(stage: str, tiny: dict[str, Any]) -> MotionTask:
    """A task as `TrainOnly` leaves it, without a trainer to log to."""
    torch.manual_seed(0)
    task = STAGES[stage](**tiny)
    task.requires_grad_(False).eval()
    for module in task.trained_modules():
        module.requires_grad_(True).train()
    return task


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, (2, 3, 8, 32, 32), generator=generator, dtype=torch.uint8)
    return {"video": clip, "label": torch.tensor([0, 1]), "index": torch.arange(2)}


def moved(device: str) -> dict[str, Any]:
    return {name: tensor.to(device) for name, tensor in batch().items()}


def gradients(task: MotionTask) -> list[Tensor]:
    return [p.grad for p in task.parameters() if p.grad is not None]


class MixedLayouts(TorchDispatchMode):
    """Records operations that get maps in both memory formats, and so copy or run slowly on GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        maps = [a for a in args if isinstance(a, Tensor) and a.ndim >= 4 and a.shape[1] > 2]
        last = {m.stride(1) == 1 for m in maps if m.shape[-1] > 1}
        if len(last) == 2 and "copy" not in str(func):
            self.found.append(f"{func} of {[(tuple(m.shape), m.stride()) for m in maps]}")
        return func(*args, **(kwargs or {}))


# The pooling in the light classifier of the probe has a gradient of its own layout.
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "probe"])
def test_features_and_gradients_keep_their_channels_last(stage: str, tiny: dict[str, Any]) -> None:
    task = ready(stage, tiny)
    with MixedLayouts() as mixed:
        task.training_step(batch(), 0).backward()
    assert not mixed.found


@pytest.fixture
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_nothing_compiled")
@stages
def test_training_step_compiles_without_a_graph_break(stage: str, tiny: dict[str, Any]) -> None:
    task, compiled = ready(stage, tiny), ready(stage, tiny)
    step = torch.compile(compiled.training_step, fullgraph=True, dynamic=False, backend="aot_eager")
    losses = []
    for one in (task.training_step, step):
        torch.manual_seed(1)
        losses.append(one(batch(), 0))
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        step(batch(), 1)
    expected, actual = gradients(task), gradients(compiled)
    assert len(expected) == len(actual) > 0
    # Sums in another order, through a dozen batch norms.
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@stages
def test_training_step_reads_nothing_back_from_the_device(stage: str, tiny: dict[str, Any]) -> None:
    # Tensors of the meta device have no values: any attempt to look at one is an error.
    task = ready(stage, tiny).to("meta")
    loss = task.training_step(moved("meta"), 0)
    loss.backward()
    assert loss.device.type == "meta"
    assert all(gradient.device.type == "meta" for gradient in gradients(task))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@stages
def test_training_step_never_waits_for_the_gpu(stage: str, tiny: dict[str, Any]) -> None:
    task = ready(stage, tiny).cuda()
    inputs = moved("cuda")
    groups = parameter_groups([task], 1e-4, decay_norm_and_bias=True)
    optimizer = make_optimizer("sgd", groups, 0.01, 0.9, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = task.training_step(inputs, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("stage", ["contrast 1", "contrast 2"])
def test_frozen_levels_keep_nothing_for_a_backward_pass(stage: str, tiny: dict[str, Any]) -> None:
    task = ready(stage, tiny)
    motion = task.model.network.motion_features(batch()["video"], up_to=task.level)
    assert [features.requires_grad for features in motion] == [False] * task.level + [True]


@stages
def test_stage_runs_no_layer_above_its_own_level(stage: str, tiny: dict[str, Any]) -> None:
    task = ready(stage, tiny)
    ran = []
    for index, layer in enumerate(task.model.network.stages):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    task.training_step(batch(), 0)
    assert ran == list(range(getattr(task, "level", 3) + 1))
