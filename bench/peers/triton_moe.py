# SPDX-License-Identifier: Apache-2.0
"""A fused MoE layer in Triton, the usual way: tokens sorted by expert, GEMM 1 over gathered rows with SwiGLU in its
epilogue, GEMM 2 with the routing weight, a sum over a token's experts. A peer to measure against and nothing else."""

import dataclasses

import torch
import triton
import triton.language as tl


@triton.jit
def sort_few(ids, sorted_slot, row_ends, slots, EXPERTS: tl.constexpr, SLOTS: tl.constexpr):
    """One program: slots by expert, and where each expert's rows end. SLOTS, EXPERTS: powers of two, EXPERTS above E,
    so that lanes without a slot count for an expert that is none, and has no rows."""
    slot = tl.arange(0, SLOTS)
    expert = tl.load(ids + slot, mask=slot < slots, other=EXPERTS - 1)
    tl.store(sorted_slot + slot, tl.sort(expert * SLOTS + slot) % SLOTS, mask=slot < slots)
    tl.store(row_ends + tl.arange(0, EXPERTS), tl.minimum(tl.cumsum(tl.histogram(expert, EXPERTS), 0), slots))


@triton.jit
def count_rows(ids, counts, slots, BLOCK: tl.constexpr):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(ids + slot, mask=slot < slots, other=0)
    tl.atomic_add(counts + expert, 1, mask=slot < slots)


@triton.jit
def end_rows(counts, row_ends, EXPERTS: tl.constexpr):
    expert = tl.arange(0, EXPERTS)
    tl.store(row_ends + expert, tl.cumsum(tl.load(counts + expert), 0))


@triton.jit
def place_rows(ids, cursors, row_ends, sorted_slot, slots, BLOCK: tl.constexpr):
    """Rows of an expert come in any order."""
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = slot < slots
    expert = tl.load(ids + slot, mask=there, other=0)
    row = tl.load(row_ends + expert - 1, mask=there & (expert > 0), other=0) + tl.atomic_add(cursors + expert, 1, mask=there)
    tl.store(sorted_slot + row, slot, mask=there)


@triton.jit
def tile_of(row_ends, columns, EXPERTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """The expert (EXPERTS: none), rows and columns of a program; GROUP row blocks at a time share weights in L2."""
    experts = tl.arange(0, EXPERTS)
    ends = tl.load(row_ends + experts)
    begins = tl.load(row_ends + experts - 1, mask=experts > 0, other=0)
    block_ends = tl.cumsum((ends - begins + BM - 1) // BM, 0)
    blocks = tl.max(block_ends, 0)
    across = tl.cdiv(columns, BN)
    group = tl.program_id(0) // (GROUP * across)
    tall = tl.maximum(tl.minimum(blocks - group * GROUP, GROUP), 1)
    inside = tl.program_id(0) % (GROUP * across)
    block = group * GROUP + inside % tall
    column = inside // tall
    expert = tl.sum((block_ends <= block).to(tl.int32), 0)
    expert = tl.where((group * GROUP < blocks) & (column < across), expert, EXPERTS)
    before = tl.sum(tl.where(experts == expert - 1, block_ends, 0), 0)
    begin = tl.sum(tl.where(experts == expert, begins, 0), 0)
    end = tl.sum(tl.where(experts == expert, ends, 0), 0)
    rows = begin + (block - before) * BM + tl.arange(0, BM)
    return expert, rows, end, column * BN + tl.arange(0, BN)


@triton.jit
def gemm1(x, w13, sorted_slot, row_ends, h, H, I, TOP_K: tl.constexpr, EXPERTS: tl.constexpr, BM: tl.constexpr,
          BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    """h [row, I] = silu(gate) * up of w13 [E, 2I, H] and x [token, H]."""
    expert, rows, end, columns = tile_of(row_ends, I, EXPERTS, BM, BN, GROUP)
    if expert < EXPERTS:
        token = (tl.load(sorted_slot + rows, mask=rows < end, other=0) // TOP_K).to(tl.int64)
        k = tl.arange(0, BK)
        a = x + token[:, None] * H + k[None, :]
        safe = tl.where(columns < I, columns, 0)
        w = w13 + expert.to(tl.int64) * 2 * I * H + safe[None, :] * H + k[:, None]
        gate = tl.zeros((BM, BN), tl.float32)
        up = tl.zeros((BM, BN), tl.float32)
        for at in range(0, H, BK):
            inside = k < H - at
            a_tile = tl.load(a, mask=(rows < end)[:, None] & inside[None, :], other=0.0)
            gate = tl.dot(a_tile, tl.load(w, mask=inside[:, None], other=0.0), gate)
            up = tl.dot(a_tile, tl.load(w + I * H, mask=inside[:, None], other=0.0), up)
            a += BK
            w += BK
        result = gate / (1.0 + tl.exp(-gate)) * up
        tl.store(h + rows.to(tl.int64)[:, None] * I + columns[None, :], result.to(h.dtype.element_ty),
                 mask=(rows < end)[:, None] & (columns < I)[None, :])


@triton.jit
def gemm2(h, w2, sorted_slot, row_ends, weights, y, H, I, EXPERTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
          BK: tl.constexpr, GROUP: tl.constexpr):
    """y [slot, H] = weight * (h [row, I] times w2 [E, H, I])."""
    expert, rows, end, columns = tile_of(row_ends, H, EXPERTS, BM, BN, GROUP)
    if expert < EXPERTS:
        slot = tl.load(sorted_slot + rows, mask=rows < end, other=0)
        k = tl.arange(0, BK)
        a = h + rows.to(tl.int64)[:, None] * I + k[None, :]
        safe = tl.where(columns < H, columns, 0)
        w = w2 + expert.to(tl.int64) * H * I + safe[None, :] * I + k[:, None]
        sums = tl.zeros((BM, BN), tl.float32)
        for at in range(0, I, BK):
            inside = k < I - at
            a_tile = tl.load(a, mask=(rows < end)[:, None] & inside[None, :], other=0.0)
            sums = tl.dot(a_tile, tl.load(w, mask=inside[:, None], other=0.0), sums)
            a += BK
            w += BK
        sums *= tl.load(weights + slot, mask=rows < end, other=0.0)[:, None]
        tl.store(y + slot.to(tl.int64)[:, None] * H + columns[None, :], sums.to(y.dtype.element_ty),
                 mask=(rows < end)[:, None] & (columns < H)[None, :])


@triton.jit
def sum_slots(y, out, H, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in range(TOP_K):
        total += tl.load(y + (token * TOP_K + slot) * H + column, mask=column < H, other=0.0).to(tl.float32)
    tl.store(out + token * H + column, total.to(out.dtype.element_ty), mask=column < H)


@dataclasses.dataclass(frozen=True)
class Config:
    rows: int  # of a tile
    columns: int  # of GEMM 2; GEMM 1 has two sums a column and takes at most 128
    k: int
    warps: int
    stages: int
    group: int = 8

    def launch(self, columns):
        return {"BM": self.rows, "BN": columns, "BK": self.k, "GROUP": self.group, "num_warps": self.warps,
                "num_stages": self.stages}


CONFIGS = (Config(16, 64, 128, 4, 4), Config(16, 128, 128, 4, 3), Config(32, 64, 128, 4, 4),
           Config(64, 64, 64, 4, 4), Config(64, 128, 64, 4, 4), Config(64, 256, 64, 8, 3), Config(128, 128, 64, 8, 3),
           Config(128, 256, 64, 8, 3))


def configs_for(rows_an_expert):
    """Those worth a trial: tiles of at most four times the rows that experts have."""
    return [c for c in CONFIGS if c.rows <= max(16, 4 * rows_an_expert) and (c.rows >= 64 or rows_an_expert <= 128)]


class Layer:
    """Buffers of one size and the launches of a layer; `run` allocates nothing and can be captured."""

    def __init__(self, shape, tokens, device, config, dtype=torch.bfloat16):
        self.shape, self.tokens, self.config = shape, tokens, config
        self.slots = tokens * shape.top_k
        self.experts = triton.next_power_of_2(shape.experts + 1)
        integers = {"dtype": torch.int32, "device": device}
        numbers = {"dtype": dtype, "device": device}
        self.sorted_slot = torch.empty(self.slots, **integers)
        self.row_ends = torch.empty(self.experts, **integers)
        self.counts = torch.zeros(2 * self.experts, **integers)  # rows of an expert; of these, the ones that have a place
        self.h = torch.empty(self.slots, shape.intermediate, **numbers)
        self.y = torch.empty(self.slots, shape.hidden, **numbers)

    def _sort(self, ids):
        if self.slots <= 1024:
            sort_few[(1,)](ids, self.sorted_slot, self.row_ends, self.slots, EXPERTS=self.experts,
                           SLOTS=triton.next_power_of_2(self.slots))
            return
        grid = (triton.cdiv(self.slots, 1024),)
        self.counts.zero_()
        count_rows[grid](ids, self.counts, self.slots, BLOCK=1024)
        end_rows[(1,)](self.counts, self.row_ends, EXPERTS=self.experts)
        place_rows[grid](ids, self.counts[self.experts:], self.row_ends, self.sorted_slot, self.slots, BLOCK=1024)

    def _grid(self, columns, width):
        """Blocks of rows at most: one partly filled for each expert that has rows, and the full ones."""
        blocks = min(self.slots, self.shape.experts) + self.slots // self.config.rows
        return (triton.cdiv(blocks, self.config.group) * self.config.group * triton.cdiv(columns, width),)

    def run(self, x, ids, weights, w13, w2, out):
        s, c = self.shape, self.config
        self._sort(ids)
        narrow = min(c.columns, 128)
        gemm1[self._grid(s.intermediate, narrow)](x, w13, self.sorted_slot, self.row_ends, self.h, s.hidden,
                                                  s.intermediate, TOP_K=s.top_k, EXPERTS=self.experts,
                                                  **c.launch(narrow))
        gemm2[self._grid(s.hidden, c.columns)](self.h, w2, self.sorted_slot, self.row_ends, weights, self.y, s.hidden,
                                               s.intermediate, EXPERTS=self.experts, **c.launch(c.columns))
        sum_slots[(self.tokens, triton.cdiv(s.hidden, 1024))](self.y, out, s.hidden, TOP_K=s.top_k, BLOCK=1024)


@triton.jit
def read_all(data, out, pieces, BLOCK: tl.constexpr):
    """Each program reads every so many blocks of int32, fewer than 2^31 numbers in all, and keeps one of them."""
    seen = tl.zeros((BLOCK,), tl.int32)
    for piece in range(tl.program_id(0), pieces, tl.num_programs(0)):
        seen |= tl.load(data + piece * BLOCK + tl.arange(0, BLOCK), eviction_policy="evict_first")
    tl.store(out + tl.program_id(0), tl.max(seen, 0))


def reference(x, ids, weights, w13, w2):
    """The same by plain torch in FP32, expert by expert; f32 [T, H]."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in ids.unique().tolist():
        token, slot = (ids == expert).nonzero(as_tuple=True)
        gate, up = (x[token].float() @ w13[expert].float().T).chunk(2, dim=1)
        hidden = (torch.nn.functional.silu(gate) * up).to(x.dtype).float()
        out.index_add_(0, token, weights[token, slot, None] * (hidden @ w2[expert].float().T))
    return out


def check(got, want, name):
    """Every token's error, relative to its size; bf16 rounds three times on the way."""
    error = ((got.float() - want).norm(dim=1) / want.norm(dim=1).clamp_min(1e-20)).max().item()
    if not error < 2e-2:  # NaN, too
        raise AssertionError(f"{name}: a token's result is {error:.3g} off, at most 2e-2 wanted")
