import numpy as np
import pytest
import torch
from tests.ops.examples import FORMATS, cost_volume_by_loops, features, values_and_gradient
from tests.support import assert_close
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hcml_lightning.ops import cost_volume, cost_volume_reference
from hcml_lightning.ops.cost_volume import num_displacements
from hcml_lightning.ops.cost_volume_grids import Grids

# Odd sizes, grids multiplied whole and in blocks, maps smaller than the window, one frame, one pixel.
SHAPES = [
    (2, 3, 2, 7, 5),
    (1, 17, 3, 13, 9),
    (1, 3, 1, 6, 6),
    (1, 2, 2, 1, 40),
    (1, 2, 2, 41, 1),
    (1, 1, 2, 1, 1),
    (1, 4, 3, 35, 37),
    (1, 3, 2, 57, 36),
]
WINDOWS = [(6, 2), (4, 1), (6, 3), (2, 5), (7, 3)]

both_formats = pytest.mark.parametrize("memory_format", FORMATS)


@pytest.mark.parametrize("function", [cost_volume, cost_volume_reference])
@pytest.mark.parametrize(("shape", "d", "s"), [((1, 3, 2, 7, 5), 6, 2), ((2, 3, 3, 4, 3), 2, 1)])
def test_costs_and_gradient_equal_equation_1(
    function: object, shape: tuple[int, ...], d: int, s: int
) -> None:
    expected = values_and_gradient(cost_volume_by_loops, features(*shape), d, s)
    actual = values_and_gradient(function, features(*shape), d, s)
    assert_close("costs", actual[0], expected[0])
    assert_close("gradient", actual[1], expected[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("d", "s"), WINDOWS)
@both_formats
def test_agrees_with_reference(shape: tuple[int, ...], d: int, s: int, memory_format: str) -> None:
    x = features(*shape, memory_format=memory_format)
    costs, gradient = values_and_gradient(cost_volume, x, d, s)
    expected_costs, expected_gradient = values_and_gradient(cost_volume_reference, x, d, s)
    assert costs.shape == (shape[0], num_displacements(d, s), *shape[2:])
    assert_close("costs", costs, expected_costs)
    assert_close("gradient", gradient, expected_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [cost_volume, cost_volume_reference])
def test_other_dtypes_are_rounded_only_at_the_end(function: object, dtype: torch.dtype) -> None:
    x = features(1, 17, 2, 13, 9, dtype=dtype)
    costs, gradient = values_and_gradient(function, x, 6, 2)
    expected_costs, expected_gradient = values_and_gradient(cost_volume_reference, x.double(), 6, 2)
    assert costs.dtype == gradient.dtype == dtype
    assert_close("costs", costs, expected_costs)
    assert_close("gradient", gradient, expected_gradient)


@pytest.mark.parametrize("function", [cost_volume, cost_volume_reference])
def test_gradient_is_the_derivative(function: object) -> None:
    x = features(1, 2, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, 2, 1), (x,))


def test_memory_format_follows_the_features() -> None:
    x = features(2, 4, 3, 6, 5)
    assert cost_volume(x).is_contiguous()
    assert cost_volume(x.to(memory_format=torch.channels_last_3d)).is_contiguous(
        memory_format=torch.channels_last_3d
    )
    assert cost_volume(x[:, :, :, ::2]).is_contiguous()


@both_formats
def test_backward_accepts_gradients_of_any_strides(memory_format: str) -> None:
    x = features(1, 3, 2, 6, 5, memory_format=memory_format).requires_grad_()
    (expected,) = torch.autograd.grad(cost_volume_reference(x).sum(), x)
    (actual,) = torch.autograd.grad(cost_volume(x).sum(), x)
    assert_close("gradient", actual, expected)
    for gradient_format in FORMATS.values():
        ones = torch.ones(1, 49, 2, 6, 5, dtype=x.dtype).to(memory_format=gradient_format)
        assert_close("gradient", torch.autograd.grad(cost_volume(x), x, ones)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_vector_has_zero_cost_and_finite_gradient(dtype: torch.dtype) -> None:
    x = features(1, 4, 2, 5, 5, dtype=dtype)
    x[:, :, 0, 2, 2] = 0
    x[:, :, 1, 1, 1] = 0
    costs, gradient = values_and_gradient(cost_volume, x, 1, 1)
    assert not costs[:, :, 0, 2, 2].any()
    assert gradient.isfinite().all()


def test_a_tiny_vector_has_the_gradient_of_a_clamped_norm() -> None:
    x = 1e-7 * features(1, 4, 2, 3, 3)
    assert_close(
        "gradient",
        values_and_gradient(cost_volume, x, 1, 1)[1],
        values_and_gradient(cost_volume_reference, x, 1, 1)[1],
    )


def test_nan_pixel_makes_the_same_costs_nan_as_in_the_reference() -> None:
    x = features(1, 4, 3, 30, 30)
    x[0, 0, 1, 15, 15] = torch.nan
    costs = cost_volume(x)
    assert torch.equal(costs.isnan(), cost_volume_reference(x).isnan())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (torch.zeros(3, 4, 5, 6),),
            r"`features` must have shape \(B, C, T, H, W\), got \(3, 4, 5, 6\)",
        ),
        ((torch.zeros(1, 3, 4, 5, 6).int(),), r"`features` must be float32.* got torch.int32"),
        ((torch.zeros(1, 0, 4, 5, 6),), r"`features` must not be empty .* \(1, 0, 4, 5, 6\)"),
        ((torch.zeros(1, 3, 4, 5, 6), -1), r"`max_displacement` must be .* got -1"),
        ((torch.zeros(1, 3, 4, 5, 6), 2.0), r"`max_displacement` must be .* got 2.0"),
        ((torch.zeros(1, 3, 4, 5, 6), 6, 0), r"`stride` must be .* got 0"),
    ],
)
@pytest.mark.parametrize("function", [cost_volume, cost_volume_reference])
def test_error_names_the_wrong_argument(function: object, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_an_empty_batch_gives_an_empty_volume() -> None:
    assert cost_volume(torch.zeros(0, 3, 4, 5, 6)).shape == (0, 49, 4, 5, 6)


@pytest.mark.parametrize("function", [cost_volume, cost_volume_reference])
def test_displacements_may_be_numbers_of_numpy(function: object) -> None:
    assert function(torch.ones(1, 4, 2, 5, 5), np.int64(2), np.int64(2)).shape == (1, 9, 2, 5, 5)


def test_autocast_does_not_change_costs_or_gradient() -> None:
    x = features(1, 8, 2, 20, 20, dtype=torch.float32)
    expected = values_and_gradient(cost_volume, x, 6, 2)
    with torch.autocast("cpu", torch.bfloat16):
        actual = values_and_gradient(cost_volume, x, 6, 2)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


# opcheck looks at `.grad` of its own intermediate tensors: https://github.com/pytorch/pytorch/pull/30531
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@both_formats
@pytest.mark.parametrize("requires_grad", [False, True])
def test_operator_passes_opcheck(memory_format: str, requires_grad: bool) -> None:
    x = features(1, 4, 3, 9, 10, memory_format=memory_format).requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.hcml.cost_volume.default, (x, 6, 2))
    gradient = torch.ones(1, 49, 3, 9, 10, dtype=x.dtype)
    torch.library.opcheck(torch.ops.hcml.cost_volume_backward.default, (gradient, x.detach(), 6, 2))


class Block(nn.Module):
    """The operator as it stands in a network: between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv3d(8, 4, 1)
        self.extract = nn.Conv3d(49 + 4, 8, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        return x + self.extract(torch.cat([cost_volume(reduced).relu(), reduced], 1))


def block_and_input(memory_format: str) -> tuple[Block, Tensor]:
    torch.manual_seed(0)
    block = Block().double().to(memory_format=FORMATS[memory_format])
    return block, features(2, 8, 3, 10, 9, memory_format=memory_format)


@both_formats
def test_compiled_block_has_the_same_output_and_gradients(memory_format: str) -> None:
    block, x = block_and_input(memory_format)
    expected = block(x)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    block.zero_grad()
    actual = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    actual.square().sum().backward()
    assert_close("output", actual, expected)
    for parameter, gradient in zip(block.parameters(), gradients, strict=True):
        assert_close("gradient", parameter.grad, gradient)


@both_formats
def test_exports_with_a_batch_of_any_size(memory_format: str) -> None:
    block, x = block_and_input(memory_format)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(block, (x,), dynamic_shapes=({0: batch},))
    assert torch.ops.hcml.cost_volume.default in {node.target for node in program.graph.nodes}
    more = torch.cat([x, x, x])
    assert_close("output", program.module()(more), block(more))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_counted(device: str) -> None:
    x = torch.randn(1, 4, 2, 8, 9, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        costs = cost_volume(x)
    assert counter.get_total_flops() == 2 * (4 * 2 * 8 * 9) * 49
    with FlopCounterMode(display=False) as counter:
        costs.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * (4 * 2 * 8 * 9) * 49


def test_a_second_derivative_is_refused() -> None:
    x = features(1, 2, 2, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(cost_volume(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"hcml.+cost_volume_backward.* no autograd formula"):
        gradient.sum().backward()


# PyTorch itself warns when forward mode is first used.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_forward_mode_is_refused_rather_than_silently_zero():
    x, tangent = torch.randn(2, 1, 2, 2, 4, 4, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(cost_volume, (x,), (tangent,))
    step = 1e-6 * tangent
    expected = (cost_volume_reference(x + step) - cost_volume_reference(x - step)) / 2e-6
    _, derivative = torch.func.jvp(cost_volume_reference, (x,), (tangent,))
    torch.testing.assert_close(derivative, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 2, 56, 56), (1, 8, 2, 28, 30), (2, 8, 3, 9, 40)])
def test_blocks_summed_in_parallel_do_not_overlap(shape: tuple[int, ...]) -> None:
    """Threads add to the surroundings of every n-th block at the same time."""
    grids = Grids(torch.empty(shape), 3, 2)
    buffer = torch.zeros(grids.buffer_shape)
    for step in grids.steps():
        surroundings = grids.surroundings(buffer, step)
        for start in range(min(grids.overlap, len(surroundings))):
            together = surroundings[start :: grids.overlap]
            numbers = torch.arange(float(together.numel())).view(together.shape)
            together.copy_(numbers)
            assert torch.equal(together, numbers)
