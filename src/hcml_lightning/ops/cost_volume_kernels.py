"""[features → **kernels of the cost volume** → prime motion block]

The numbers of `cost_volume_reference` by tensor cores; `cost_volume_triton.py` cuts the maps and launches.

All displacements are multiples of the stride s, so a map falls apart into s × s grids of every s-th pixel, and within
a grid neighbours are one step apart. A first kernel writes the grids as unit vectors, channels last, with zeros around
them: the other kernels load without masks, whatever the memory format of the features. They take a row of pixels i,
multiply it with the rows of the next frame that it can meet, and want only the band |j - i| ≤ R of the product.

A gather of the band would shuffle registers; folding moves nothing. With R = 1 the band is 3 wide, so j mod 4 tells its
entries apart, and the sum over j // 4 of the masked product holds them all:

              j = 0 1 2 3   4 5 6 7            slot  0 1 2 3
        i = 0     ■ ■ · ·   · · · ·                  ■ ■ · ·
        i = 1     ■ ■ ■ ·   · · · ·    sum over      ■ ■ ■ ·     slot j mod 4 of pixel i belongs to the displacement
        i = 2     · ■ ■ ■   · · · ·    ─────────→    · ■ ■ ■     dx = (slot - i + R) mod 4 - R: the rotation by i goes
        i = 3     · · ■ ■   ■ · · ·     j // 4       ■ · ■ ■     into the addresses of the store
        i = 4     · · · ■   ■ ■ · ·                  ■ ■ · ■

The surroundings are loaded in the order (j // 4, dy, j mod 4), so that the sum stays inside a thread. Backward runs
the other way: load the gradient rotated, repeat it along j // 4, mask, multiply. Every pixel collects its gradient as
the one that looks and as the one that is seen, in one program: no atomics, the same bits in every run.
"""

# The arguments of a kernel are no Python values, and Triton does not say its types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

import triton
import triton.language as tl


@triton.jit
def unit_kernel(
    features, unit, inverse,
    T, H, W, HP, WP, BLOCKS,
    s_b, s_c, s_t, s_y, s_x,
    C: tl.constexpr, CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Split the maps into padded grids of unit vectors (B, T, STRIDE, STRIDE, HP, WP, CP)."""
    i_block = tl.program_id(0) % BLOCKS
    i_grid = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_frame = i_grid // (STRIDE * STRIDE)
    o_p = i_block * BP + tl.arange(0, BP)
    o_c = tl.arange(0, BC)
    y = (o_p // WP - RADIUS) * STRIDE + (i_grid // STRIDE % STRIDE).to(tl.int32)
    x = (o_p % WP - HALO) * STRIDE + (i_grid % STRIDE).to(tl.int32)
    m_p = o_p < HP * WP
    m_x = m_p & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    p_x = features + i_frame // T * s_b + i_frame % T * s_t
    p_x = p_x + (y * s_y + x * s_x)[:, None] + (o_c * s_c)[None, :]
    p_unit = unit + i_grid * HP * WP * CP + (o_p * CP)[:, None] + o_c[None, :]

    b_square = tl.zeros((BP,), ACC)
    for i_c in tl.static_range(0, CP, BC):
        m_c = m_x[:, None] & (i_c + o_c < C)[None, :]
        b_x = tl.load(p_x + i_c * s_c, mask=m_c, other=0.0).to(ACC)
        b_square += tl.sum(b_x * b_x, 1)
    b_inverse = 1.0 / tl.maximum(tl.sqrt(b_square), EPS)
    tl.store(inverse + i_grid * HP * WP + o_p, b_inverse, mask=m_p)
    for i_c in tl.static_range(0, CP, BC):
        m_c = m_x[:, None] & (i_c + o_c < C)[None, :]
        b_x = tl.load(p_x + i_c * s_c, mask=m_c, other=0.0).to(ACC)
        b_unit = (b_x * b_inverse[:, None]).to(unit.dtype.element_ty)
        tl.store(p_unit + i_c, b_unit, mask=m_p[:, None])


@triton.jit
def cost_volume_fwd_kernel(
    unit, costs,
    T, H, W, HP, WP, TILES_Y, TILES_X,
    s_b, s_m, s_t, s_y, s_x,
    CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    ROWS: tl.constexpr, NX: tl.constexpr, NY: tl.constexpr, NK: tl.constexpr, BC: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Costs of ROWS rows of NX pixels in all the grids that share their image rows."""
    K: tl.constexpr = 2 * RADIUS + 1
    i_tile = tl.program_id(0)
    i_col = i_tile % TILES_X * (NX - 2 * HALO)
    i_row = i_tile // TILES_X % TILES_Y * ROWS
    i_y = i_tile // (TILES_X * TILES_Y) % STRIDE
    i_frame = (i_tile // (TILES_X * TILES_Y * STRIDE)).to(tl.int64)
    i_next = tl.where(i_frame % T == T - 1, i_frame, i_frame + 1)

    o_c = tl.arange(0, BC)
    o_i = tl.arange(0, NX)
    o_n = tl.arange(0, NY * NX)
    o_dy = o_n // NK % NY
    o_j = o_n // (NK * NY) * NK + o_n % NK
    o_slot = tl.arange(0, NK)
    o_dx = (o_slot[None, :] - o_i[:, None] + (RADIUS + NX)) % NK  # [NX, NK]
    o_apart = tl.reshape(o_j, (NX // NK, NY, NK))[None, :, :, :] - o_i[:, None, None, None]
    m_band = (o_apart >= -RADIUS) & (o_apart <= RADIUS)  # [NX, NX // NK, NY, NK]

    p_costs = costs + i_frame // T * s_b + i_frame % T * s_t
    for row in range(ROWS):
        y = (i_row + row) * STRIDE + i_y
        for i_x in range(STRIDE):
            x = (i_col + o_i - HALO) * STRIDE + i_x
            m_x = (o_i >= HALO) & (o_i < NX - HALO) & (x < W) & (y + o_i * 0 < H)
            i_own = ((i_frame * STRIDE + i_y) * STRIDE + i_x) * HP + i_row + row + RADIUS
            i_top = ((i_next * STRIDE + i_y) * STRIDE + i_x) * HP + i_row + row
            p_own = unit + (i_own * WP + i_col) * CP + (o_i * CP)[:, None] + o_c[None, :]
            for i_dy in tl.static_range(0, K, NY):
                p_seen = unit + ((i_top + i_dy) * WP + i_col) * CP
                p_seen = p_seen + ((o_dy * WP + o_j) * CP)[:, None] + o_c[None, :]
                b_product = tl.zeros((NX, NY * NX), ACC)
                for i_c in tl.static_range(0, CP, BC):
                    b_own = tl.load(p_own + i_c)
                    b_seen = tl.load(p_seen + i_c)
                    b_product = tl.dot(
                        b_own, tl.trans(b_seen), b_product, input_precision=PRECISION, out_dtype=ACC
                    )
                b_product = tl.reshape(b_product, (NX, NX // NK, NY, NK))
                b_costs = tl.sum(tl.where(m_band, b_product, 0.0), 1)  # [NX, NY, NK]
                o_ky = i_dy + tl.arange(0, NY)[None, :, None]
                o_kx = o_dx[:, None, :]
                tl.store(
                    p_costs + y * s_y + (x * s_x)[:, None, None] + (o_ky * K + o_kx) * s_m,
                    b_costs.to(costs.dtype.element_ty),
                    mask=m_x[:, None, None] & (o_ky < K) & (o_kx < K),
                )


@triton.jit
def _unit_gradient(
    grad, unit, i_frame, i_row, i_col, i_y, i_x, i_c: tl.constexpr,
    T, H, W, HP, WP,
    s_b, s_m, s_t, s_y, s_x,
    CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    NX: tl.constexpr, NY: tl.constexpr, NK: tl.constexpr, BC: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient with respect to BC channels of a row of NX unit vectors."""
    K: tl.constexpr = 2 * RADIUS + 1
    o_c = i_c + tl.arange(0, BC)
    o_i = tl.arange(0, NX)
    o_n = tl.arange(0, NY * NX)
    o_slot = tl.arange(0, NK)
    o_j = o_n // (NK * NY) * NK + o_n % NK
    o_g = tl.arange(0, NX // NK)
    p_grad = grad + i_frame // T * s_b
    i_t = i_frame % T

    # as the pixel that looks, into the next frame
    x = (i_col + o_i - HALO) * STRIDE + i_x
    y = i_row * STRIDE + i_y
    m_x = (x >= 0) & (x < W) & (y + o_i * 0 < H)
    o_kx = ((o_slot[None, :] - o_i[:, None] + (RADIUS + NX)) % NK)[:, None, :]  # [NX, 1, NK]
    o_apart = (o_g[:, None] * NK + o_slot[None, :])[None, :, :] - o_i[:, None, None]
    m_band = ((o_apart >= -RADIUS) & (o_apart <= RADIUS))[:, :, None, :]  # [NX, NX // NK, 1, NK]
    # as the pixel that is seen, from the frame before
    x_seen = (i_col + o_j - HALO) * STRIDE + i_x
    o_back = (o_slot[None, :] - o_j[:, None] + (RADIUS + NX)) % NK  # [NY * NX, NK]
    o_apart = (o_g[:, None] * NK + o_slot[None, :])[None, :, :] - o_j[:, None, None]
    m_back = (o_apart >= -RADIUS) & (o_apart <= RADIUS)  # [NY * NX, NX // NK, NK]

    b_grad = tl.zeros((NX, BC), ACC)
    i_next = tl.where(i_t == T - 1, i_frame, i_frame + 1)
    p_next = unit + ((i_next * STRIDE + i_y) * STRIDE + i_x) * HP * WP * CP
    for i_dy in tl.static_range(0, K, NY):
        o_dy = i_dy + o_n // NK % NY
        o_seen = (((i_row + o_dy) * WP + i_col + o_j) * CP)[:, None] + o_c[None, :]
        o_ky = i_dy + tl.arange(0, NY)[None, :, None]
        b_own = tl.load(
            p_grad + i_t * s_t + y * s_y + (x * s_x)[:, None, None] + (o_ky * K + o_kx) * s_m,
            mask=m_x[:, None, None] & (o_ky < K) & (o_kx < K),
            other=0.0,
        )
        b_band = tl.where(m_band, b_own[:, None, :, :], 0.0)
        b_band = tl.reshape(b_band, (NX, NY * NX)).to(unit.dtype.element_ty)
        b_unit = tl.load(p_next + o_seen)
        b_grad = tl.dot(b_band, b_unit, b_grad, input_precision=PRECISION, out_dtype=ACC)

        y_seen = (i_row + o_dy - RADIUS) * STRIDE + i_y
        m_seen = (o_dy < K) & (y_seen >= 0) & (y_seen < H) & (x_seen >= 0) & (x_seen < W)
        o_m = ((2 * RADIUS - o_dy)[:, None] * K + o_back) * s_m
        o_grad = (y_seen * s_y + x_seen * s_x)[:, None] + o_m
        for i_before in tl.static_range(1, -1, -1):
            # the frame before, and for the last frame also itself
            m_frame = i_t > 0 if i_before == 1 else i_t == T - 1
            if m_frame:
                p_from = (
                    unit + (((i_frame - i_before) * STRIDE + i_y) * STRIDE + i_x) * HP * WP * CP
                )
                b_other = tl.load(
                    p_grad + (i_t - i_before) * s_t + o_grad,
                    mask=m_seen[:, None] & (o_back < K),
                    other=0.0,
                )
                b_fold = tl.where(m_back, b_other[:, None, :], 0.0)
                b_fold = tl.trans(tl.reshape(b_fold, (NY * NX, NX))).to(unit.dtype.element_ty)
                b_seen = tl.load(p_from + o_seen)
                b_grad = tl.dot(b_fold, b_seen, b_grad, input_precision=PRECISION, out_dtype=ACC)
    return b_grad


@triton.jit
def cost_volume_bwd_kernel(
    grad, unit, inverse, grad_features,
    T, H, W, HP, WP, TILES_Y, TILES_X,
    s_b, s_m, s_t, s_y, s_x,
    f_b, f_c, f_t, f_y, f_x,
    C: tl.constexpr, CP: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, HALO: tl.constexpr,
    ROWS: tl.constexpr, NX: tl.constexpr, NY: tl.constexpr, NK: tl.constexpr, BC: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, EPS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Gradient of ROWS rows of NX pixels in all the grids that share their image rows."""
    i_tile = tl.program_id(0)
    i_col = i_tile % TILES_X * (NX - 2 * HALO)
    i_top = i_tile // TILES_X % TILES_Y * ROWS
    i_y = i_tile // (TILES_X * TILES_Y) % STRIDE
    i_frame = (i_tile // (TILES_X * TILES_Y * STRIDE)).to(tl.int64)
    o_i = tl.arange(0, NX)
    for row in range(ROWS):
        i_row = i_top + row
        y = i_row * STRIDE + i_y
        for i_x in range(STRIDE):
            x = (i_col + o_i - HALO) * STRIDE + i_x
            m_x = (o_i >= HALO) & (o_i < NX - HALO) & (x < W) & (y + o_i * 0 < H)
            i_own = ((i_frame * STRIDE + i_y) * STRIDE + i_x) * HP + i_row + RADIUS
            o_own = i_own * WP + i_col + o_i
            b_inverse = tl.load(inverse + o_own)
            # d(x / |x|) leaves only what is orthogonal to x; a clamped norm is a constant.
            m_norm = b_inverse * EPS < 1.0
            b_radial = tl.zeros((NX,), ACC)
            # With more channels than one block holds, a first round finds the radial part.
            for i_round in tl.static_range(1 if CP <= BC else 2):
                for i_c in tl.static_range(0, CP, BC):
                    b_grad = _unit_gradient(
                        grad, unit, i_frame, i_row, i_col, i_y, i_x, i_c,
                        T, H, W, HP, WP, s_b, s_m, s_t, s_y, s_x,
                        CP, RADIUS, STRIDE, HALO, NX, NY, NK, BC, ACC, PRECISION,
                    )  # fmt: skip
                    o_c = i_c + tl.arange(0, BC)
                    b_unit = tl.load(unit + o_own[:, None] * CP + o_c[None, :]).to(ACC)
                    if i_round == 0:
                        b_radial += tl.sum(b_grad * b_unit, 1)
                    if CP <= BC or i_round == 1:
                        b_grad -= b_unit * tl.where(m_norm, b_radial, 0.0)[:, None]
                        b_grad *= b_inverse[:, None]
                        if LIMIT is not None:
                            b_grad = tl.clamp(b_grad, -LIMIT, LIMIT, tl.PropagateNan.ALL)
                        p_own = grad_features + i_frame // T * f_b + i_frame % T * f_t + y * f_y
                        tl.store(
                            p_own + (x * f_x)[:, None] + o_c.to(tl.int64)[None, :] * f_c,
                            b_grad.to(grad_features.dtype.element_ty),
                            mask=m_x[:, None] & (o_c < C)[None, :],
                        )
