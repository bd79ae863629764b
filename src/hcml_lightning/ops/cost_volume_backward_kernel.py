"""[gradient of costs → **backward kernel of the cost volume** → gradient of features]

The steps of `cost_volume_kernels.py` in reverse: load the gradient of the costs rotated, repeat it along j // NK, mask
it to the band, and multiply it with the unit vectors that the pixels were compared with. One program adds up the whole
gradient of a pixel, as the one that looks (its own costs) and as the one that is seen (the costs of other pixels with
it), so there are no atomics and every run gives the same bits.
"""

# The arguments of a kernel are not Python values, and Triton ships no type hints.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl

from hcml_lightning.ops.cost_volume_kernels import tile_of_program


@triton.jit
def _add_band(
    b_sum, p_grad, o_grad, m_band, p_seen, o_seen, i_row, i_last,
    s_dy: tl.constexpr, s_row: tl.constexpr,
    K: tl.constexpr, ROWS: tl.constexpr, NX: tl.constexpr, NK: tl.constexpr, BC: tl.constexpr,
    UNROLL: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add to b_sum, [ROWS, NX, BC], the surroundings weighted by the gradients of their costs in rows 0 … i_last."""
    for i_dy in tl.range(0, K, loop_unroll_factor=UNROLL):
        m_y = (i_row + i_dy >= 0) & (i_row + i_dy <= i_last)
        b_grad = tl.load(p_grad + o_grad + i_dy * s_dy, mask=m_y, other=0.0)
        b_grad = tl.reshape(b_grad, (2, NX // 8, ROWS, 8, NK // 2))
        b_grad = tl.reshape(tl.permute(b_grad, (2, 1, 3, 4, 0)), (ROWS, NX, 1, NK))
        b_band = tl.where(m_band, b_grad, 0.0).to(p_seen.dtype.element_ty)
        b_seen = tl.load(p_seen + i_dy * s_row + o_seen)
        b_seen = tl.reshape(b_seen, (NX // 16, BC // 16, ROWS, 8, 4, 2, 2, 2))
        b_seen = tl.reshape(tl.permute(b_seen, (2, 0, 6, 4, 7, 1, 5, 3)), (ROWS, NX, BC))
        b_band = tl.reshape(b_band, (ROWS, NX, NX))
        b_sum = tl.dot(b_band, b_seen, b_sum, input_precision=PRECISION, out_dtype=ACC)
    return b_sum


@triton.jit
def cost_volume_bwd_kernel(
    grad, features, unit, inverse, grad_features,
    T, H: tl.constexpr, W: tl.constexpr,
    TILES_Y: tl.constexpr, TILES_X: tl.constexpr, HP: tl.constexpr, WP: tl.constexpr,
    s_b, s_t, s_m: tl.constexpr, s_y: tl.constexpr, s_x: tl.constexpr,
    x_b, x_t, x_c: tl.constexpr, x_y: tl.constexpr, x_x: tl.constexpr,
    f_b, f_t, f_c: tl.constexpr, f_y: tl.constexpr, f_x: tl.constexpr,
    C: tl.constexpr, CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    ROWS: tl.constexpr, NX: tl.constexpr, NK: tl.constexpr, BC: tl.constexpr,
    UNROLL: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, EPS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of ROWS rows of NX pixels in all the grids that share their image rows."""
    K: tl.constexpr = 2 * RADIUS + 1
    i_col, i_top, i_y, i_frame, i_b, i_t = tile_of_program(
        T, TILES_Y, TILES_X, STRIDE, ROWS, NX - 2 * HALO
    )
    i_last = (H - i_y + STRIDE - 1) // STRIDE - 1

    s_16: tl.constexpr = 16 * CP
    s_row: tl.constexpr = WP // 16 * s_16
    s_frame: tl.constexpr = STRIDE * STRIDE * HP * s_row
    o_n = tl.arange(0, ROWS * NX * BC // 8)  # pixel // 16, channel // 16, row, lane
    o_seen = o_n // (2 * BC * ROWS) * s_16 + o_n // (32 * ROWS) % (BC // 16) * 256
    o_seen = o_seen + o_n // 32 % ROWS * s_row + o_n % 32 * 8
    o_seen = o_seen[:, None] + tl.arange(0, 8)[None, :]
    # The two slots of a pair are separate loads, because a pixel's gradient may begin at any address.
    o_n = tl.arange(0, ROWS * NX * NK)  # slot % 2, pixel // 8, row, pixel % 8, slot // 2
    o_pixel = o_n // (4 * NK * ROWS) % (NX // 8) * 8 + o_n // (NK // 2) % 8
    o_slot = o_n % (NK // 2) * 2 + o_n // (ROWS * NX * (NK // 2))
    o_kx = tl.minimum((o_slot - o_pixel + (RADIUS + NX)) % NK, K - 1)
    i_row = i_top + o_n // (4 * NK) % ROWS
    y = i_row * STRIDE + i_y
    o_i = tl.arange(0, NX)
    o_j = tl.arange(0, NX // NK)[None, :, None] * NK + tl.arange(0, NK)[None, None, :]
    o_apart = o_j - o_i[:, None, None]  # [NX, NX // NK, NK]
    o_c = tl.arange(0, BC)
    o_row = tl.arange(0, ROWS)
    y_out = (i_top + o_row) * STRIDE + i_y

    p_grad = grad + i_b * s_b
    for i_x in range(STRIDE):
        x_seen = (i_col + o_j - HALO) * STRIDE + i_x
        m_band = (o_apart >= -RADIUS) & (o_apart <= RADIUS) & (x_seen >= 0) & (x_seen < W)
        m_band = m_band[None, :, :, :]
        # Values outside the map or the band are masked later; until then their addresses are clamped to valid ones.
        x_own = (i_col + o_pixel - HALO) * STRIDE + i_x
        x_looks = x_own + (o_kx - RADIUS) * STRIDE
        x_own = tl.minimum(tl.maximum(x_own, 0), W - 1)
        x_looks = tl.minimum(tl.maximum(x_looks, 0), W - 1)
        o_own = y * s_y + x_own * s_x + o_kx * s_m
        o_looks = (y - RADIUS * STRIDE) * s_y + x_looks * s_x + (K * K - 1 - o_kx) * s_m
        i_grid = ((i_frame * STRIDE + i_y) * STRIDE + i_x) * HP + i_top
        o_inverse = (i_grid + RADIUS + o_row[:, None]) * WP + i_col + o_i[None, :]
        b_inverse = tl.load(inverse + o_inverse)  # [ROWS, NX]
        # The gradient through x / |x| keeps only the part orthogonal to x, unless the norm was clamped to a constant.
        m_norm = b_inverse * EPS < 1.0
        x = (i_col + o_i - HALO) * STRIDE + i_x
        m_x = ((o_i >= HALO) & (o_i < NX - HALO) & (x < W))[None, :] & (y_out < H)[:, None]
        b_radial = tl.zeros((ROWS, NX), ACC)
        # If one block does not hold all channels, a first round computes the radial part.
        for i_round in tl.static_range(1 if CP <= BC else 2):
            for i_c in tl.static_range(0, CP, BC):
                p_unit = unit + i_grid * s_row + i_col // 16 * s_16 + i_c * 16
                b_grad = tl.zeros((ROWS, NX, BC), ACC)
                # as the pixel that looks, at all rows of the next frame; the last frame looks at itself
                b_grad = _add_band(
                    b_grad, p_grad + i_t * s_t, o_own, m_band,
                    p_unit + tl.where(i_t == T - 1, 0, s_frame), o_seen, i_row * 0, tl.where(y < H, K, -1),
                    K * s_m, s_row, K, ROWS, NX, NK, BC, UNROLL, ACC, PRECISION,
                )  # fmt: skip
                # as the pixel that is seen, from the frame before, and in the last frame also from itself
                for i_before in tl.static_range(1, -1, -1):
                    m_frame = i_t > 0 if i_before == 1 else i_t == T - 1
                    if m_frame:
                        b_grad = _add_band(
                            b_grad, p_grad + (i_t - i_before) * s_t, o_looks, m_band,
                            p_unit - i_before * s_frame, o_seen, i_row - RADIUS, i_last,
                            STRIDE * s_y - K * s_m, s_row, K, ROWS, NX, NK, BC, UNROLL, ACC, PRECISION,
                        )  # fmt: skip
                m_c = m_x[:, :, None] & (i_c + o_c < C)[None, None, :]
                o_x = (y_out[:, None] * x_y + x[None, :] * x_x)[:, :, None]
                o_x = o_x + ((i_c + o_c) * x_c)[None, None, :]
                p_x = features + i_b * x_b + i_t * x_t
                b_unit = tl.load(p_x + o_x, mask=m_c, other=0.0)
                b_unit = b_unit.to(ACC) * b_inverse[:, :, None]
                if i_round == 0:
                    b_radial += tl.sum(b_grad * b_unit, 2)
                if CP <= BC or i_round == 1:
                    b_grad -= b_unit * tl.where(m_norm, b_radial, 0.0)[:, :, None]
                    b_grad *= b_inverse[:, :, None]
                    if LIMIT is not None:
                        b_grad = tl.clamp(b_grad, -LIMIT, LIMIT, tl.PropagateNan.ALL)
                    o_x = (y_out[:, None] * f_y + x[None, :] * f_x)[:, :, None]
                    o_x = o_x + ((i_c + o_c) * f_c)[None, None, :]
                    p_x = grad_features + i_b * f_b + i_t * f_t
                    tl.store(p_x + o_x, b_grad.to(grad_features.dtype.element_ty), mask=m_c)
