# mypy: ignore-errors
# A kernel is Triton's language inside Python's: pointers and tiles have no types that a checker knows.
"""The Triton kernels: gather; project, weigh and layer for each layer; output. Programs run over tiles of rows.

Every element of a result is one chain of products over ascending inputs, in blocks of fixed size, and a tile holds rows
of one slot alone; so what else is in the batch has no say in it. Arguments are named as in `batching` and `pool`;
`level` is the layer, k its inputs, d its outputs. Pointers only: shapes come as numbers.
"""

import triton
import triton.language as tl


@triton.jit
def gather(
    x,
    tiles,
    codes,
    counts,
    tail,
    tables,
    about,
    stride,
    inputs,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Vectors of one field: a table's row, the mean of a list's rows, a number, an overlay's vector, or padding."""
    tile = tl.program_id(0)
    field = tl.program_id(1)
    start = tl.load(tiles + 3 * tile)
    rows = tl.load(tiles + 3 * tile + 1)
    if rows == 0:
        return
    kind = tl.load(about + 5 * field)
    begin = tl.load(about + 5 * field + 1)
    width = tl.load(about + 5 * field + 2)
    column = tl.load(about + 5 * field + 3)
    row = tl.arange(0, TILE)
    live = row < rows
    code = tl.load(codes + field * stride + start + row, mask=live & (kind != 3), other=0)
    target = x + (start + row) * inputs + column
    if kind == 1:
        tl.store(target, code.to(tl.float32, bitcast=True), mask=live)
    else:
        count = tl.where(live & (kind != 3), 1, 0)
        if kind == 2:
            number = tl.load(about + 5 * field + 4)
            count = tl.load(counts + number * stride + start + row, mask=live, other=0)
        most = tl.max(count, 0)
        for left in range(0, width, WIDTH):
            at = left + tl.arange(0, WIDTH)
            total = tl.zeros((TILE, WIDTH), tl.float32)
            for i in range(most):
                here = i < count
                entry = code
                if kind == 2:
                    entry = tl.load(tail + code + i, mask=here, other=0)
                known = here & (entry >= 0)
                address = begin + entry.to(tl.int64) * width
                inside = (at < width)[None, :]
                total += tl.load(tables + address[:, None] + at[None, :], mask=known[:, None] & inside, other=0.0)
                own = (here & (entry < 0))[:, None] & inside
                bits = tl.load(tail + (-1 - entry)[:, None] + at[None, :], mask=own, other=0)
                total += bits.to(tl.float32, bitcast=True)
            mean = total / tl.maximum(count, 1).to(tl.float32)[:, None]
            tl.store(target[:, None] + at[None, :], mean, mask=live[:, None] & (at < width)[None, :])


@triton.jit
def project(
    x,
    z,
    inner,
    query_shift,
    tiles,
    table,
    level,
    levels,
    k,
    wide,
    ENTRIES: tl.constexpr,
    HEAD: tl.constexpr,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of components (or of a query) of one tile: z = x downᵀ, or q = x queryᵀ + its shift."""
    tile = tl.program_id(0)
    block = tl.program_id(1)
    start = tl.load(tiles + 3 * tile)
    rows = tl.load(tiles + 3 * tile + 1)
    slot = tl.load(tiles + 3 * tile + 2).to(tl.int64)
    entry = table + (slot * levels + level) * ENTRIES
    blocks = tl.load(entry)
    queries = tl.load(entry + 1)
    if (rows == 0) | (block >= blocks + queries):
        return
    place = tl.load(entry + HEAD + block).to(tl.int64)
    row = tl.arange(0, TILE)
    component = tl.arange(0, BLOCK)
    live = (row < rows)[:, None]
    total = tl.zeros((TILE, BLOCK), tl.float32)
    for begin in range(0, k, STEP):
        at = begin + tl.arange(0, STEP)
        left = tl.load(x + (start + row)[:, None] * k + at[None, :], mask=live & (at < k)[None, :], other=0.0)
        right = tl.load(
            inner + (place * BLOCK + component)[None, :] * k + at[:, None], mask=(at < k)[:, None], other=0.0
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    shift = tl.load(
        query_shift + slot * KEYS + (block - blocks) * BLOCK + component,
        mask=(component >= 0) & (block >= blocks),
        other=0.0,
    )
    target = z + (start + row)[:, None] * wide + block * BLOCK + component[None, :]
    tl.store(target, total + shift[None, :], mask=live)


@triton.jit
def weigh(
    z,
    weighted,
    key,
    division,
    key_shift,
    tiles,
    table,
    level,
    levels,
    wide,
    ENTRIES: tl.constexpr,
    HEAD: tl.constexpr,
    KEYS: tl.constexpr,
    MOST: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Weights of the divisions, softmax((z * (q key)) groupᵀ + q key_shiftᵀ), and z times its division's weight.

    Written beside z, not over it: other threads of the program may still read it. The weights are one block more. A
    slot of constant weights has its z as it is.
    """
    tile = tl.program_id(0)
    start = tl.load(tiles + 3 * tile)
    rows = tl.load(tiles + 3 * tile + 1)
    slot = tl.load(tiles + 3 * tile + 2).to(tl.int64)
    if rows == 0:
        return
    entry = table + (slot * levels + level) * ENTRIES
    blocks = tl.load(entry)
    queries = tl.load(entry + 1)
    m = tl.load(entry + 2)
    row = tl.arange(0, TILE)
    one = tl.arange(0, BLOCK)  # of a block's components, or of the divisions
    live = (row < rows)[:, None]
    mine = (start + row)[:, None] * wide + one[None, :]
    score = tl.zeros((TILE, BLOCK), tl.float32)
    for f in range(queries):
        q = tl.load(z + mine + (blocks + f) * BLOCK, mask=live, other=0.0)
        at = key_shift + (slot * MOST + one)[None, :] * KEYS + f * BLOCK + one[:, None]
        score = tl.dot(q, tl.load(at, mask=(one < m)[None, :], other=0.0), score, input_precision=PRECISION)
    for b in range(blocks):
        place = tl.load(entry + HEAD + b).to(tl.int64)
        attended = tl.zeros((TILE, BLOCK), tl.float32)
        for f in range(queries):
            q = tl.load(z + mine + (blocks + f) * BLOCK, mask=live, other=0.0)
            at = key + (place * BLOCK + one)[None, :] * KEYS + f * BLOCK + one[:, None]
            attended = tl.dot(q, tl.load(at), attended, input_precision=PRECISION)
        own = tl.load(z + mine + b * BLOCK, mask=live, other=0.0)
        member = (tl.load(division + place * BLOCK + one)[:, None] == one[None, :]).to(tl.float32)
        score = tl.dot(own * attended, member, score, input_precision=PRECISION)
    score = tl.where((one < tl.maximum(m, 1))[None, :], score, -float("inf"))
    grown = tl.exp(score - tl.max(score, 1)[:, None])
    weights = grown / tl.sum(grown, 1)[:, None]
    for b in range(blocks):
        own = tl.load(z + mine + b * BLOCK, mask=live, other=0.0)
        if queries > 0:
            place = tl.load(entry + HEAD + b).to(tl.int64)
            member = (one[:, None] == tl.load(division + place * BLOCK + one)[None, :]).to(tl.float32)
            own = own * tl.dot(weights, member, input_precision=PRECISION)
        tl.store(weighted + mine + b * BLOCK, own, mask=live)
    if queries > 0:
        tl.store(weighted + mine + blocks * BLOCK, weights, mask=live)


@triton.jit
def layer(
    x,
    y,
    weighted,
    weight,
    outer,
    shift,
    scale,
    offset,
    tiles,
    table,
    level,
    levels,
    k,
    d,
    wide,
    ENTRIES: tl.constexpr,
    HEAD: tl.constexpr,
    MOST: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Some columns of one tile of a layer: W x, the low-rank part as more inputs, scale, offset and ReLU.

    W is the slot's entry of the stack, the backbone's W0 or a domain's own.
    """
    tile = tl.program_id(0)
    start = tl.load(tiles + 3 * tile)
    rows = tl.load(tiles + 3 * tile + 1)
    slot = tl.load(tiles + 3 * tile + 2).to(tl.int64)
    if rows == 0:
        return
    row = tl.arange(0, TILE)
    one = tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = start + row
    live = (row < rows)[:, None]
    inside = (column < d)[None, :]
    entry = table + (slot * levels + level) * ENTRIES
    whose = tl.load(entry + 3).to(tl.int64) * d * k
    total = tl.zeros((TILE, COLUMNS), tl.float32)
    for begin in range(0, k, STEP):
        at = begin + tl.arange(0, STEP)
        left = tl.load(x + first[:, None] * k + at[None, :], mask=live & (at < k)[None, :], other=0.0)
        right = tl.load(weight + whose + column[None, :] * k + at[:, None], mask=inside & (at < k)[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)

    blocks = tl.load(entry)
    mine = weighted + first[:, None] * wide + one[None, :]
    for b in range(blocks):
        place = tl.load(entry + HEAD + b).to(tl.int64)
        up = tl.load(outer + (place * BLOCK + one)[:, None] * d + column[None, :], mask=inside, other=0.0)
        own = tl.load(mine + b * BLOCK, mask=live, other=0.0)
        total = tl.dot(own, up, total, input_precision=PRECISION)
    m = tl.load(entry + 2)
    if m > 0:
        weights = tl.load(mine + blocks * BLOCK, mask=live, other=0.0)
        shifts = shift + (slot * MOST + one)[:, None] * d + column[None, :]
        shifts = tl.load(shifts, mask=(one < m)[:, None] & inside, other=0.0)
        total = tl.dot(weights, shifts, total, input_precision=PRECISION)

    scales = tl.load(scale + slot * d + column, mask=column < d, other=0.0)
    offsets = tl.load(offset + slot * d + column, mask=column < d, other=0.0)
    h = total * scales[None, :] + offsets[None, :]
    # not maximum(h, 0), by which what is no number would become 0
    tl.store(y + first[:, None] * d + column[None, :], tl.where(h < 0.0, 0.0, h), mask=live & inside)


@triton.jit
def output(
    x,
    logits,
    weight,
    tiles,
    table,
    levels,
    k,
    ENTRIES: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One logit a row, without the bias, by the slot's entry of the stack."""
    tile = tl.program_id(0)
    start = tl.load(tiles + 3 * tile)
    rows = tl.load(tiles + 3 * tile + 1)
    if rows == 0:
        return
    slot = tl.load(tiles + 3 * tile + 2).to(tl.int64)
    whose = tl.load(table + slot * levels * ENTRIES + 3).to(tl.int64) * k
    row = tl.arange(0, TILE)
    live = row < rows
    total = tl.zeros((TILE,), tl.float32)
    for begin in range(0, k, STEP):
        at = begin + tl.arange(0, STEP)
        left = tl.load(x + (start + row)[:, None] * k + at[None, :], mask=live[:, None] & (at < k)[None, :], other=0.0)
        total += tl.sum(left * tl.load(weight + whose + at, mask=at < k, other=0.0)[None, :], 1)
    tl.store(logits + start + row, total, mask=live)
