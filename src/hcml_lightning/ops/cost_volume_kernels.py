"""[features → **kernels of the cost volume** → prime motion block]

Computes the same costs as `cost_volume_reference` on tensor cores; `cost_volume_triton.py` cuts the maps into tiles and
launches the kernels.

All displacements are multiples of the stride s, so a map splits into s × s grids of every s-th pixel, and within a grid
neighbours are one step apart. A first kernel writes the grids as unit vectors with zeros around them, so that the other
kernels load without masks, whatever the memory format of the features. They take a row of pixels i, multiply it with
each row of pixels j of the next frame within its reach, and need only the band |j - i| ≤ R of the product.

Gathering the band would shuffle values between registers; folding it moves none. With R = 1 the band is 3 wide, so
j mod 4 tells its entries apart, and of the columns j = slot, slot + 4, … each pixel needs at most one:

              j = 0 1 2 3   4 5 6 7            slot  0 1 2 3
        i = 0     ■ ■ · ·   · · · ·                  ■ ■ · ·
        i = 1     ■ ■ ■ ·   · · · ·     choose       ■ ■ ■ ·     slot j mod 4 of pixel i belongs to the displacement
        i = 2     · ■ ■ ■   · · · ·    ─────────→    · ■ ■ ■     dx = (slot - i + R) mod 4 - R: the rotation by i goes
        i = 3     · · ■ ■   ■ · · ·     j // 4       ■ · ■ ■     into the addresses of the store
        i = 4     · · · ■   ■ ■ · ·                  ■ ■ · ■

In half precision one warp processes one row of pixels, and no operand passes through shared memory on its way to the
tensor cores: each lane loads the part of an operand that it has to hold. Of 16 × 16 values, lane 4g + t holds rows g
and g + 8, columns 2t, 2t + 1 and those 8 further. So a block is loaded flat, element n going to lane n mod 32 of warp
n // 32 mod ROWS, and then reshaped to the operand, which costs nothing; the comment at each `arange` names the digits
of n, the slowest-changing one first. If a compiler assigns elements to lanes differently, the kernels are slower, not
wrong. The rows of a program share the rows that they are compared with, through the cache.
`cost_volume_backward_kernel.py` computes the gradient.
"""

# The arguments of a kernel are not Python values, and Triton ships no type hints.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl


@triton.jit
def unit_kernel(
    features, unit, inverse,
    T, H: tl.constexpr, W: tl.constexpr, HP: tl.constexpr, WP: tl.constexpr, BLOCKS: tl.constexpr,
    s_b, s_t, s_c: tl.constexpr, s_y: tl.constexpr, s_x: tl.constexpr,
    C: tl.constexpr, CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, PAIRED: tl.constexpr, ACC: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Split the maps into padded grids of unit vectors (B, T, STRIDE, STRIDE, HP, WP, CP).

    With PAIRED, every 16 pixels × BC channels are written in the order in which the lanes of a product that sums over
    pixels need them: (channel // 16, channel % 8, pixel // 2 % 4, channel // 8 % 2, pixel // 8, pixel % 2).
    """
    i_block = tl.program_id(0) % BLOCKS
    i_grid = tl.program_id(0) // BLOCKS
    i_frame = i_grid // (STRIDE * STRIDE)
    o_p = i_block * BP + tl.arange(0, BP)
    o_c = tl.arange(0, BC)
    y = (o_p // WP - RADIUS) * STRIDE + i_grid // STRIDE % STRIDE
    x = (o_p % WP - HALO) * STRIDE + i_grid % STRIDE
    m_p = o_p < HP * WP
    m_x = m_p & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    p_x = features + (i_frame // T).to(tl.int64) * s_b + (i_frame % T).to(tl.int64) * s_t
    p_x = p_x + (y * s_y + x * s_x)[:, None] + (o_c * s_c)[None, :]
    i_first = i_grid.to(tl.int64) * (HP * WP)

    b_square = tl.zeros((BP,), ACC)
    for i_c in tl.static_range(0, CP, BC):
        m_c = m_x[:, None] & (i_c + o_c < C)[None, :]
        b_x = tl.load(p_x + i_c * s_c, mask=m_c, other=0.0).to(ACC)
        b_square += tl.sum(b_x * b_x, 1)
    b_inverse = 1.0 / tl.maximum(tl.sqrt(b_square), EPS)
    tl.store(inverse + i_first + o_p, b_inverse, mask=m_p)
    for i_c in tl.static_range(0, CP, BC):
        if CP > BC:  # otherwise the only block is still loaded
            m_c = m_x[:, None] & (i_c + o_c < C)[None, :]
            b_x = tl.load(p_x + i_c * s_c, mask=m_c, other=0.0).to(ACC)
        b_unit = (b_x * b_inverse[:, None]).to(unit.dtype.element_ty)
        if PAIRED:
            b_unit = tl.reshape(b_unit, (BP // 16, 2, 4, 2, BC // 16, 2, 8))
            b_unit = tl.permute(b_unit, (0, 4, 6, 2, 5, 1, 3))
            o_n = tl.arange(0, BP * BC // 8)
            o_16 = i_block * (BP // 16) + o_n // (2 * BC)
            o_unit = o_16 * (16 * CP) + i_c * 16 + o_n % (2 * BC) * 8
            tl.store(
                unit + i_first * CP + o_unit[:, None] + tl.arange(0, 8)[None, :],
                tl.reshape(b_unit, (BP * BC // 8, 8)),
                mask=(o_16 * 16 < HP * WP)[:, None],
            )
        else:
            p_unit = unit + i_first * CP + (o_p * CP)[:, None] + (i_c + o_c)[None, :]
            tl.store(p_unit, b_unit, mask=m_p[:, None])


@triton.jit
def tile_of_program(
    T, TILES_Y: tl.constexpr, TILES_X: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """Return a tile's first column and first row in its grid, the row offset of the grid, frame, sample and time."""
    i_tile = tl.program_id(0)
    i_frame = i_tile // (TILES_X * TILES_Y * STRIDE)
    return (
        i_tile % TILES_X * STEP,
        i_tile // TILES_X % TILES_Y * ROWS,
        i_tile // (TILES_X * TILES_Y) % STRIDE,
        i_frame.to(tl.int64),
        (i_frame // T).to(tl.int64),
        (i_frame % T).to(tl.int64),
    )


@triton.jit
def _pixels(p_own, ROWS: tl.constexpr, NX: tl.constexpr, BC: tl.constexpr, RUN: tl.constexpr):
    b_own = tl.reshape(tl.load(p_own), (BC // (4 * RUN), RUN // 2, NX // 8, ROWS, 8, 4, 2))
    return tl.reshape(tl.permute(b_own, (3, 2, 4, 0, 1, 5, 6)), (ROWS, NX, BC))


@triton.jit
def cost_volume_fwd_kernel(
    unit, costs,
    T, H: tl.constexpr, W: tl.constexpr,
    TILES_Y: tl.constexpr, TILES_X: tl.constexpr, HP: tl.constexpr, WP: tl.constexpr,
    s_b, s_t, s_m: tl.constexpr, s_y: tl.constexpr, s_x: tl.constexpr,
    CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    ROWS: tl.constexpr, NX: tl.constexpr, NY: tl.constexpr, NK: tl.constexpr, BITS: tl.constexpr, BC: tl.constexpr,
    UNROLL: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute costs of ROWS rows of NX pixels in all grids that share their image rows, NY values of dy at a time."""
    K: tl.constexpr = 2 * RADIUS + 1
    i_col, i_top, i_y, i_frame, i_b, i_t = tile_of_program(
        T, TILES_Y, TILES_X, STRIDE, ROWS, NX - 2 * HALO
    )
    i_next = tl.where(i_t == T - 1, i_frame, i_frame + 1)

    # Channels may be summed in any order: four lanes share 16 or 32 of them, in runs of one load each.
    RUN: tl.constexpr = min(BC, 32) // 4
    o_n = tl.arange(
        0, ROWS * NX * BC // 2
    )  # run // 4, two of it, pixel // 8, row, pixel % 8, run % 4
    o_pixel = o_n // (32 * ROWS) % (NX // 8) * 8 + o_n // 4 % 8
    o_run = o_n // (2 * ROWS * NX * RUN) * 4 + o_n % 4
    o_two = o_n // (4 * ROWS * NX) % (RUN // 2)
    o_own = (o_n // 32 % ROWS * WP + o_pixel) * CP + o_run * RUN + o_two * 2
    o_own = o_own[:, None] + tl.arange(0, 2)[None, :]
    o_n = tl.arange(
        0, ROWS * NX * NY * BC // RUN
    )  # run // 4, dy, pixel // 8, row, pixel % 8, run % 4
    o_pixel = o_n // (32 * ROWS) % (NX // 8) * 8 + o_n // 4 % 8
    o_run = o_n // (4 * ROWS * NX * NY) * 4 + o_n % 4
    o_dy = o_n // (4 * ROWS * NX) % NY
    o_seen = ((o_n // 32 % ROWS + o_dy) * WP + o_pixel) * CP + o_run * RUN
    o_seen = o_seen[:, None] + tl.arange(0, RUN)[None, :]
    o_i = tl.arange(0, NX)[:, None]
    o_j = o_i + (tl.arange(0, NK)[None, :] - o_i + (RADIUS + NX)) % NK - RADIUS  # [NX, NK]
    o_group = (o_j + NX) // NK

    o_n = tl.arange(0, ROWS * NX * NY * NK)  # pixel, row, dy, slot
    o_pixel = o_n // (ROWS * NY * NK)
    o_dy = o_n // NK % NY
    o_kx = (o_n % NK - o_pixel + (RADIUS + NX)) % NK
    y = (i_top + o_n // (NY * NK) % ROWS) * STRIDE + i_y
    p_costs = costs + i_b * s_b + i_t * s_t
    for i_x in range(STRIDE):
        x = (i_col + o_pixel - HALO) * STRIDE + i_x
        m_x = (o_pixel >= HALO) & (o_pixel < NX - HALO) & (x < W) & (o_kx < K) & (y < H)
        o_costs = y * s_y + x * s_x + (o_dy * K + o_kx) * s_m
        x_seen = (i_col + o_j - HALO) * STRIDE + i_x
        m_seen = ((x_seen >= 0) & (x_seen < W))[None, :, None, :]
        i_own = ((i_frame * STRIDE + i_y) * STRIDE + i_x) * HP + i_top + RADIUS
        i_seen = ((i_next * STRIDE + i_y) * STRIDE + i_x) * HP + i_top
        p_own = unit + (i_own * WP + i_col) * CP + o_own
        b_own = _pixels(p_own, ROWS, NX, BC, RUN)
        for i_dy in tl.range(0, K, NY, loop_unroll_factor=UNROLL):
            p_seen = unit + ((i_seen + i_dy) * WP + i_col) * CP + o_seen
            b_costs = tl.zeros((ROWS, NX, NY * NX), ACC)
            for i_c in tl.static_range(0, CP, BC):
                if CP > BC:
                    b_own = _pixels(p_own + i_c, ROWS, NX, BC, RUN)
                b_seen = tl.reshape(
                    tl.load(p_seen + i_c), (BC // (4 * RUN), NY, NX // 8, ROWS, 8, 4, RUN // 2, 2)
                )
                b_seen = tl.permute(b_seen, (3, 0, 6, 5, 7, 1, 2, 4))
                b_seen = tl.reshape(b_seen, (ROWS, BC, NY * NX))
                b_costs = tl.dot(b_own, b_seen, b_costs, input_precision=PRECISION, out_dtype=ACC)
            b_costs = tl.reshape(b_costs, (ROWS, NX, NY, NX // NK, NK))
            b_costs = tl.permute(b_costs, (0, 1, 2, 4, 3))
            for i_bit in tl.static_range(BITS):
                b_costs = tl.reshape(b_costs, (ROWS, NX, NY, NK, NX // NK >> (i_bit + 1), 2))
                b_even, b_odd = tl.split(b_costs)
                m_odd = ((o_group >> i_bit) % 2 == 1)[None, :, None, :, None]
                b_costs = tl.where(m_odd, b_odd, b_even)
            b_costs = tl.where(m_seen, tl.reshape(b_costs, (ROWS, NX, NY, NK)), 0.0)
            b_costs = tl.permute(b_costs.to(costs.dtype.element_ty), (1, 0, 2, 3))
            tl.store(
                p_costs + i_dy * K * s_m + o_costs,
                tl.reshape(b_costs, (ROWS * NX * NY * NK,)),
                mask=m_x & (i_dy + o_dy < K),
            )
