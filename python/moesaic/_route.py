# SPDX-License-Identifier: Apache-2.0
"""Routing alone: logits to ids and weights, and the rows of every expert in order."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _abi
from ._config import ModuleOptions, modules_to_c, slots_pointer
from ._errors import InvalidArgumentError
from ._tensor import Tensors, allocate, as_view, bare, compiling, device_name, device_of, dtype_of, on_stream, \
    stream_of, workspace


class Routed(NamedTuple):
    """S = top_k + shared_slots slots a token; L experts held.

    ids i32, weights f32 [T, S], by falling selection score. With ``rows=True`` also the rows in order of expert, token
    and slot: row_offsets i32 [L + shared_slots + 1], row_token i32 and row_weight f32 [T * S], slot_row i32 [T, S]
    (-1: not held).
    """

    ids: Any
    weights: Any
    row_offsets: Any = None
    row_token: Any = None
    row_weight: Any = None
    slot_row: Any = None


@functools.lru_cache(maxsize=256)
def _router(device: str, modules: ModuleOptions | None, max_tokens: int, num_experts: int, top_k: int, method: str,
            n_group: int, topk_group: int, scaling: float, renormalize: bool, vocabulary: int,
            slots: tuple[int, ...] | None, first: int, count: int, shared: int, shared_weight: float) -> _abi.Handle:
    c = _abi.new(_abi.RouterConfig)
    c.num_experts, c.top_k, c.n_group, c.topk_group = num_experts, top_k, n_group, topk_group
    c.routing = _abi.number(_abi.ROUTINGS, method, "method")
    c.scaling, c.renormalize, c.vocabulary = scaling, renormalize, vocabulary
    c.expert_slots, c.num_expert_slots = slots_pointer(slots)
    c.experts_first, c.experts_count = first, count
    c.shared_slots, c.shared_weight = shared, shared_weight
    c.max_tokens, c.device = max_tokens, device_of(device)
    return _abi.Handle("moesaic_router_destroy", "moesaic_router_create", ctypes.byref(c), modules_to_c(modules))


def _at_least(tokens: int) -> int:
    """max_tokens of a router that serves `tokens`: few different ones, for each is a handle."""
    return max(8192, 1 << (tokens - 1).bit_length() if tokens > 1 else 1)


def experts_held(experts: int, slots: Sequence[int] | None, count: int) -> int:
    """L: all of `experts`, or those of a map."""
    return sum(slot >= 0 for slot in slots) if slots is not None else count or experts


def route(logits: Any, top_k: int, *, method: str = "softmax_topk_renorm", n_group: int = 1, topk_group: int = 1,
          scaling: float = 1.0, renormalize: bool = True, selection_bias: Any = None, token_ids: Any = None,
          token_experts: Any = None, rows: bool = False, expert_slots: Sequence[int] | None = None,
          experts_first: int = 0, experts_count: int = 0, shared_slots: int = 0, shared_weight: float = 1.0,
          modules: ModuleOptions | None = None, stream: Any = None) -> Routed:
    """Chooses experts by logits f32 [T, E]. method: "softmax_topk", "deepseek_v3", ... (RoutingMethod in moe.h).

    selection_bias f32 [E]: methods that have one. token_ids i64 or i32 [T], token_experts i32 [vocabulary, top_k]:
    "hash". rows: also sort rows by expert, of the experts held (expert_slots, or experts_first and experts_count).
    shared_slots: ids E, E + 1, ... with shared_weight appended to every token.
    """
    if compiling(logits):
        from ._torch_ops import OPS
        return Routed(*OPS.route(logits, top_k, method, n_group, topk_group, scaling, renormalize, selection_bias,
                                 token_ids, token_experts, rows,
                                 list(expert_slots) if expert_slots is not None else None, experts_first,
                                 experts_count, shared_slots, shared_weight)[: 6 if rows else 2])
    source = as_view(logits)
    if len(source.shape) != 2:
        raise InvalidArgumentError(f"route: logits has shape {list(source.shape)}, wanted [T, E]")
    number = stream_of(source.device, stream)
    source = as_view(logits, number)
    tokens, experts = source.shape
    vocabulary = 0 if token_experts is None else as_view(token_experts).shape[0]
    slots = None if expert_slots is None else tuple(expert_slots)
    router = _router(device_name(source.device), modules, _at_least(tokens), experts, top_k, method, n_group,
                     topk_group, scaling, renormalize, vocabulary, slots, experts_first, experts_count, shared_slots,
                     shared_weight)
    width = top_k + shared_slots
    held = experts_held(experts, slots, experts_count)
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"ids": ((tokens, width), "i32"),
                                                      "weights": ((tokens, width), "f32")}
    if rows:
        shapes.update(row_offsets=((held + shared_slots + 1,), "i32"), row_token=((tokens * width,), "i32"),
                      row_weight=((tokens * width,), "f32"), slot_row=((tokens, width), "i32"))
    tensors = Tensors(number)
    run = _abi.new(_abi.RouteRun)
    with on_stream(source.device, number):
        results = {name: allocate(source, shape, dtype_of(dtype)) for name, (shape, dtype) in shapes.items()}
    for name, value in (("logits", source), ("selection_bias", selection_bias), ("token_ids", token_ids),
                        ("token_experts", token_experts), *results.items()):
        setattr(run, name, tensors.pointer(value))
    if rows:
        size = _abi.size("moesaic_router_workspace_bytes", router.value, tokens)
        space = workspace(source.device, number, size)
        run.workspace, run.workspace_bytes = space.data, space.size
    _abi.call("moesaic_router_route", router.value, ctypes.byref(run), number)
    return Routed(**{name: bare(value) for name, value in results.items()})
