# SPDX-License-Identifier: Apache-2.0
"""torch.ops.moesaic: the layer, its parts and the quantisers as custom ops, with fake kernels that give shapes and
types alone, so that torch.compile and CUDA graphs see through them. Layers and Gemms are named by their `key`."""

from __future__ import annotations

import functools
from typing import Any

import torch

from . import _gemm, _moe, _quantize, _route
from ._errors import InvalidArgumentError
from ._tensor import dtype_of, own_workspaces

_LAYER = ("Tensor? router_logits, Tensor? topk_ids, Tensor? topk_weights, Tensor? token_ids, Tensor? x_scale, "
          "Tensor? x_row_scale, Tensor? expert_offsets, Tensor? expert_counts")
_SCHEMAS = {
    "fused_moe": f"(Tensor x, str layer, {_LAYER}, ScalarType? out_dtype) -> Tensor",
    "fused_moe_out": f"(Tensor x, Tensor(a!) out, str layer, {_LAYER}) -> ()",
    "gemm": "(Tensor x, str gemm, Tensor? offsets, Tensor? counts, float alpha, Tensor? x_scale, Tensor? x_row_scale, "
            "str scale_major, Tensor? input_scale, ScalarType? out_dtype) -> Tensor",
    "quantize": "(Tensor x, str format, str layout, str e8m0, int group_size, bool zero_points, str activation, "
                "float? alpha, float? beta, float? limit, Tensor? global_scale, Tensor? group_offsets) "
                "-> (Tensor, Tensor, Tensor, Tensor)",
    "dequantize": "(Tensor codes, Tensor scales, str format, str layout, int group_size, SymInt cols, Tensor? zeros, "
                  "Tensor? global_scale, Tensor? row_scales, Tensor? group_offsets, ScalarType dtype) -> Tensor",
    "route": "(Tensor logits, int top_k, str method, int n_group, int topk_group, float scaling, bool renormalize, "
             "Tensor? selection_bias, Tensor? token_ids, Tensor? token_experts, bool rows, int[]? expert_slots, "
             "int experts_first, int experts_count, int shared_slots, float shared_weight) "
             "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
}
_library: Any = torch.library.Library("moesaic", "DEF")  # type: ignore[no-untyped-call]
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)


def _of_key(held: Any, key: str, what: str) -> Any:
    found = held.get(key)
    if found is None:
        raise InvalidArgumentError(f"{what} is '{key}', wanted the key of one that still lives")
    return found


def _layer(key: str) -> _moe.FusedMoe:
    return _of_key(_moe.LAYERS, key, "layer")  # type: ignore[no-any-return]


def _result_type(x: Any, recipe: str, wanted: Any) -> Any:
    if wanted is not None:
        return wanted
    codes = x.dtype.itemsize == 1
    return (torch.float16 if recipe == "fp16" else torch.bfloat16) if codes else x.dtype


def _fused_moe(x: Any, layer: str, router_logits: Any, topk_ids: Any, topk_weights: Any, token_ids: Any, x_scale: Any,
               x_row_scale: Any, expert_offsets: Any, expert_counts: Any, out_dtype: Any) -> Any:
    return _layer(layer)(x, router_logits=router_logits, topk_ids=topk_ids, topk_weights=topk_weights,
                         token_ids=token_ids, x_scale=x_scale, x_row_scale=x_row_scale, expert_offsets=expert_offsets,
                         expert_counts=expert_counts, out_dtype=out_dtype)


def _fused_moe_fake(x: Any, layer: str, *rest: Any) -> Any:
    config = _layer(layer).config
    return x.new_empty((*x.shape[:-1], config.hidden), dtype=_result_type(x, config.recipe, rest[-1]))


def _fused_moe_out(x: Any, out: Any, layer: str, router_logits: Any, topk_ids: Any, topk_weights: Any, token_ids: Any,
                   x_scale: Any, x_row_scale: Any, expert_offsets: Any, expert_counts: Any) -> None:
    _layer(layer)(x, out=out, router_logits=router_logits, topk_ids=topk_ids, topk_weights=topk_weights,
                  token_ids=token_ids, x_scale=x_scale, x_row_scale=x_row_scale, expert_offsets=expert_offsets,
                  expert_counts=expert_counts)


def _fused_moe_out_fake(*_: Any) -> None:
    return None


def _multiply(x: Any, gemm: str, offsets: Any, counts: Any, alpha: float, x_scale: Any, x_row_scale: Any,
              scale_major: str, input_scale: Any, out_dtype: Any) -> Any:
    op = _of_key(_gemm.GEMMS, gemm, "gemm")
    return op(x, offsets=offsets, counts=counts, alpha=alpha, x_scale=x_scale, x_row_scale=x_row_scale,
              scale_major=scale_major, input_scale=input_scale, out_dtype=out_dtype)


def _multiply_fake(x: Any, gemm: str, *rest: Any) -> Any:
    op = _of_key(_gemm.GEMMS, gemm, "gemm")
    return x.new_empty((*x.shape[:-1], op.n), dtype=_result_type(x, op.recipe, rest[-1]))


def _quantized(x: Any, format: str, layout: str, e8m0: str, group_size: int, zero_points: bool, activation: str,
               alpha: Any, beta: Any, limit: Any, global_scale: Any, group_offsets: Any) -> Any:
    if format == "nvfp4" and global_scale is None:
        raise InvalidArgumentError("quantize: global_scale is None, wanted f32 [1] under torch.compile")
    q = _quantize._quantize(x, format, layout, e8m0, group_size, zero_points, activation or None, (alpha, beta, limit),
                            global_scale, group_offsets)
    none = x.new_empty((0,), dtype=torch.uint8)
    return (q.codes, q.scales, none if q.zeros is None else q.zeros,
            none.to(torch.float32) if q.row_scales is None else q.row_scales)


def _quantized_fake(x: Any, format: str, layout: str, e8m0: str, group_size: int, zero_points: bool, activation: str,
                    alpha: Any, beta: Any, limit: Any, global_scale: Any, group_offsets: Any) -> Any:
    m, k = x.shape[0], x.shape[1] // (2 if activation else 1)
    rows, cols = _quantize.scale_shape(format, m, k, group_size)
    if group_offsets is not None:
        rows = (rows + 127 * (group_offsets.shape[0] - 1)) // 128 * 128 + 128
    tile = {"linear": 0, "128x4": 128, "8x4": 8}[layout]
    scales = (rows, cols) if not tile else ((rows + tile - 1) // tile * tile * ((cols + 3) // 4 * 4),)
    scale_type = getattr(torch, dtype_of(_quantize.scale_type(format)).torch)
    code_cols = k // 2 if _quantize.is_four_bits(format) else k
    zeros = (m, cols) if zero_points and format == "int4" else (0,)
    return (x.new_empty((m, code_cols), dtype=torch.uint8), x.new_empty(scales, dtype=scale_type),
            x.new_empty(zeros, dtype=torch.uint8),
            x.new_empty((m,) if format == "nvfp4_row" else (0,), dtype=torch.float32))


def _dequantized(codes: Any, scales: Any, format: str, layout: str, group_size: int, cols: int, zeros: Any,
                 global_scale: Any, row_scales: Any, group_offsets: Any, dtype: Any) -> Any:
    q = _quantize.Quantized(format, (codes.shape[0], cols), codes, scales, zeros, global_scale, row_scales, layout,
                            group_size, zeros is not None, group_offsets)
    return _quantize._dequantize(q, dtype)


def _dequantized_fake(codes: Any, scales: Any, format: str, layout: str, group_size: int, cols: int, zeros: Any,
                      global_scale: Any, row_scales: Any, group_offsets: Any, dtype: Any) -> Any:
    return codes.new_empty((codes.shape[0], cols), dtype=dtype)


def _routed(logits: Any, top_k: int, method: str, n_group: int, topk_group: int, scaling: float, renormalize: bool,
            selection_bias: Any, token_ids: Any, token_experts: Any, rows: bool, expert_slots: Any, experts_first: int,
            experts_count: int, shared_slots: int, shared_weight: float) -> Any:
    made = _route.route(logits, top_k, method=method, n_group=n_group, topk_group=topk_group, scaling=scaling,
                        renormalize=renormalize, selection_bias=selection_bias, token_ids=token_ids,
                        token_experts=token_experts, rows=rows, expert_slots=expert_slots, experts_first=experts_first,
                        experts_count=experts_count, shared_slots=shared_slots, shared_weight=shared_weight)
    if rows:
        return tuple(made)
    return (made.ids, made.weights, *(logits.new_empty((0,), dtype=t) for t in _ROW_TYPES))


_ROW_TYPES = (torch.int32, torch.int32, torch.float32, torch.int32)  # row_offsets, row_token, row_weight, slot_row


def _routed_fake(logits: Any, top_k: int, method: str, n_group: int, topk_group: int, scaling: float,
                 renormalize: bool, selection_bias: Any, token_ids: Any, token_experts: Any, rows: bool,
                 expert_slots: Any, experts_first: int, experts_count: int, shared_slots: int,
                 shared_weight: float) -> Any:
    tokens, width = logits.shape[0], top_k + shared_slots
    held = _route.experts_held(logits.shape[1], expert_slots, experts_count)
    shapes: tuple[Any, ...] = ((held + shared_slots + 1,), (tokens * width,), (tokens * width,), (tokens, width))
    if not rows:
        shapes = ((0,),) * 4
    return (logits.new_empty((tokens, width), dtype=torch.int32), logits.new_empty((tokens, width)),
            *(logits.new_empty(shape, dtype=t) for shape, t in zip(shapes, _ROW_TYPES)))


_KERNELS = {
    "fused_moe": (_fused_moe, _fused_moe_fake), "fused_moe_out": (_fused_moe_out, _fused_moe_out_fake),
    "gemm": (_multiply, _multiply_fake), "quantize": (_quantized, _quantized_fake),
    "dequantize": (_dequantized, _dequantized_fake), "route": (_routed, _routed_fake),
}


def _with_own_workspaces(kernel: Any) -> Any:
    @functools.wraps(kernel)
    def run(*arguments: Any) -> Any:
        with own_workspaces():
            return kernel(*arguments)

    return run


for _name, (_kernel, _fake) in _KERNELS.items():
    for _device in ("CPU", "CUDA"):
        _library.impl(_name, _with_own_workspaces(_kernel), _device)
    if hasattr(torch.library, "register_fake"):
        torch.library.register_fake(f"moesaic::{_name}", _fake, lib=_library)
    else:  # torch before 2.4
        _library.impl(_name, _fake, "Meta")

OPS = torch.ops.moesaic
