# SPDX-License-Identifier: Apache-2.0
"""Matrices to and from the quantised formats of docs/numerics.md, on the CPU and on GPUs, byte for byte the same."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from typing import Any

from . import _abi
from ._config import ModuleOptions, modules_to_c, number_or_default
from ._errors import InvalidArgumentError
from ._tensor import Tensors, View, allocate, as_view, bare, compiling, device_name, device_of, dtype_of, on_stream, \
    stream_of, view

_LARGEST = 2688.0  # 6 x 448: the largest code times the largest block scale of NVFP4


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantised matrix [M, K]; M are tokens of activations or output channels of weights.

    format: "nvfp4", "mxfp8", ... layout: of byte scales. group_size, zero_points: of int4.
    codes: u8 [M, K], 4-bit ones [M, K / 2] with the even k in the low nibble.
    scales: u8 or f32, linear [rows, columns of blocks] (int4: bf16, as uint16 where the library has no bf16), other
    layouts flat with padding. zeros: u8 [M, K / group_size] of int4 with zero points.
    global_scale: f32 [1] (nvfp4, fp8_static). row_scales: f32 [M] (nvfp4_row).
    """

    format: str
    shape: tuple[int, int]
    codes: Any
    scales: Any
    zeros: Any = None
    global_scale: Any = None
    row_scales: Any = None
    layout: str = "linear"
    group_size: int = 32
    zero_points: bool = False
    group_offsets: Any = None


def _spec(fmt: str, layout: str, e8m0: str, group_size: int, zero_points: bool, activation: str | None = None,
          parameters: tuple[float | None, ...] = (None, None, None)) -> _abi.QuantSpec:
    spec = _abi.new(_abi.QuantSpec)
    spec.format = _abi.number(_abi.QUANT_FORMATS, fmt, "format")
    spec.layout = _abi.number(_abi.SCALE_LAYOUTS, layout, "layout")
    spec.e8m0 = _abi.number(_abi.E8M0_ROUNDINGS, e8m0, "e8m0")
    spec.int4_group_size, spec.int4_zero_points = group_size, zero_points
    if activation is not None:
        spec.activation = _abi.number(_abi.ACTIVATIONS, activation, "activation")
    spec.alpha, spec.beta, spec.limit = map(number_or_default, parameters)
    return spec


@functools.lru_cache(maxsize=256)
def _quantizer(device: str, modules: ModuleOptions | None, fmt: str, layout: str, e8m0: str, group_size: int,
               zero_points: bool, activation: str | None, *parameters: float | None) -> _abi.Handle:
    spec = _spec(fmt, layout, e8m0, group_size, zero_points, activation, parameters)
    return _abi.Handle("moesaic_quantizer_destroy", "moesaic_quantizer_create", ctypes.byref(spec), device_of(device),
                       modules_to_c(modules))


def sizes_of(spec: _abi.QuantSpec, rows: int, cols: int) -> _abi.QuantSizes:
    """Bytes and scales of the quantised form of [rows, cols]."""
    sizes = _abi.new(_abi.QuantSizes)
    _abi.call("moesaic_quant_sizes_of", ctypes.byref(spec), rows, cols, ctypes.byref(sizes))
    return sizes


def is_four_bits(fmt: str) -> bool:
    return fmt in ("nvfp4", "nvfp4_row", "mxfp4", "int4")


def scale_type(fmt: str) -> str:
    """The element type of a format's scales."""
    return "bf16" if fmt == "int4" else "f32" if fmt.startswith("fp8") else "u8"


def scale_shape(fmt: str, rows: int, cols: int, group_size: int) -> tuple[int, int]:
    """Linear scales of [rows, cols], which may be symbols of torch.compile."""
    block_rows, block_cols = block_of(fmt, group_size)
    return (1 if block_rows is None else (rows + block_rows - 1) // block_rows,
            1 if block_cols is None else (cols + block_cols - 1) // block_cols)


def block_of(fmt: str, group_size: int) -> tuple[int | None, int | None]:
    """Rows and columns that share a scale; None: all."""
    return {"nvfp4": (1, 16), "nvfp4_row": (1, 16), "mxfp4": (1, 32), "mxfp8": (1, 32), "mxfp8_e5m2": (1, 32),
            "fp8_row": (1, None), "fp8_1x128": (1, 128), "fp8_128x128": (128, 128),
            "int4": (1, group_size)}.get(fmt, (None, None))


def weight_format(recipe: str, group_size: int = 32, zero_points: bool = False) -> str | None:
    """The format of a recipe's weights, for `quantize`; None for recipes with 16-bit weights."""
    spec, quantized = _abi.new(_abi.QuantSpec), ctypes.c_int32()
    _abi.call("moesaic_weight_spec", recipe.encode(), group_size, zero_points, ctypes.byref(spec),
              ctypes.byref(quantized))
    return _abi.QUANT_FORMATS[spec.format] if quantized.value else None


def _amax_scale(x: Any, source: View) -> Any:
    if source.kind == "torch":
        largest = x.detach().abs().amax().float()
        return (_LARGEST / largest.clamp_min(2.0 ** -100)).reshape(1)
    if source.kind == "numpy" and hasattr(source.source, "astype"):
        import numpy
        largest = numpy.abs(source.source.astype("float32")).max(initial=0.0)
        return numpy.array([_LARGEST / max(float(largest), 2.0 ** -100)], "float32")
    raise InvalidArgumentError("quantize: global_scale is None, wanted f32 [1], 2688 / amax of x: the array's library "
                               "is neither torch nor numpy")


def _scale_shape(spec: _abi.QuantSpec, sizes: _abi.QuantSizes, layout: str, m: int,
                 offsets: View | None) -> tuple[int, ...]:
    if layout == "linear":
        return sizes.scale_rows, sizes.scale_cols
    if offsets is None:
        return (sizes.scale_bytes,)
    # Grouped: every group begins at a multiple of 128 rows (moesaic::grouped_scale_row).
    rows = (m + 127 * (offsets.shape[0] - 1)) // 128 * 128 + 128
    return (sizes_of(spec, rows, sizes.scale_cols * (16 if spec.format < 2 else 32)).scale_bytes,)


def quantize(x: Any, format: str, *, layout: str = "linear", e8m0: str = "up", group_size: int = 32,
             zero_points: bool = False, activation: str | None = None, alpha: float | None = None,
             beta: float | None = None, limit: float | None = None, global_scale: Any = None,
             group_offsets: Any = None, dtype: Any = None, modules: ModuleOptions | None = None,
             stream: Any = None) -> Quantized:
    """Quantises x [M, K] (bf16, f16 or f32; with a gated activation [M, 2K], gate in the first half).

    format: "nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_static", "fp8_tensor", "fp8_row", "fp8_1x128",
    "fp8_128x128" or "int4". layout: "linear", "128x4" or "8x4", of NVFP4 and MX scales. e8m0: "up" or "floor", of MX.
    global_scale: f32 [1]; nvfp4: the encode scale, 2688 / amax of x where None; fp8_static: what x is divided by.
    group_offsets: i32 [G + 1], layout 128x4: rows [offsets[g], offsets[g + 1]) are group g.
    dtype: of x where its library cannot say it ("bf16" of uint16). stream: as for `FusedMoe`.
    """
    if compiling(x):
        ops = _torch_ops()
        codes, scales, zeros, rows = ops.quantize(x, format, layout, e8m0, group_size, zero_points, activation or "",
                                                  alpha, beta, limit, global_scale, group_offsets)
        return Quantized(format, (x.shape[0], x.shape[1] // (2 if activation else 1)), codes, scales,
                         zeros if zero_points else None, global_scale, rows if format == "nvfp4_row" else None, layout,
                         group_size, zero_points, group_offsets)
    return _quantize(x, format, layout, e8m0, group_size, zero_points, activation, (alpha, beta, limit), global_scale,
                     group_offsets, dtype, modules, stream)


def _quantize(x: Any, fmt: str, layout: str, e8m0: str, group_size: int, zero_points: bool, activation: str | None,
              parameters: tuple[float | None, ...], global_scale: Any, group_offsets: Any, dtype: Any = None,
              modules: ModuleOptions | None = None, stream: Any = None) -> Quantized:
    spec = _spec(fmt, layout, e8m0, group_size, zero_points, activation, parameters)
    source = as_view(x if dtype is None else view(x, dtype))
    if len(source.shape) != 2:
        raise InvalidArgumentError(f"quantize: x has shape {list(source.shape)}, wanted [M, K]")
    number = stream_of(source.device, stream)
    source = as_view(x if dtype is None else view(x, dtype), number)
    handle = _quantizer(device_name(source.device), modules, fmt, layout, e8m0, group_size, zero_points, activation,
                        *parameters)
    m, k = source.shape[0], source.shape[1] // (1 if activation is None else 2)
    sizes = sizes_of(spec, m, k)
    with on_stream(source.device, number):
        if fmt == "nvfp4" and global_scale is None:
            global_scale = _amax_scale(x, source)
        offsets = None if group_offsets is None else as_view(group_offsets, number)
        codes = allocate(source, (m, k // 2 if is_four_bits(fmt) else k), dtype_of("u8"))
        scales = allocate(source, _scale_shape(spec, sizes, layout, m, offsets), dtype_of(scale_type(fmt)))
        zeros = allocate(source, (m, sizes.scale_cols), dtype_of("u8")) if zero_points and fmt == "int4" else None
        row_scales = allocate(source, (m,), dtype_of("f32")) if fmt == "nvfp4_row" else None
    tensors = Tensors(number)
    run = _abi.new(_abi.QuantizeRun)
    run.x = tensors.pointer(source)
    run.codes, run.scales, run.zeros = (tensors.pointer(t) for t in (codes, scales, zeros))
    run.global_scale, run.row_scales = tensors.pointer(global_scale), tensors.pointer(row_scales)
    run.group_offsets = tensors.pointer(offsets)
    _abi.call("moesaic_quantizer_quantize", handle.value, ctypes.byref(run), number)
    return Quantized(fmt, (m, k), bare(codes), bare(scales), bare(zeros), global_scale, bare(row_scales), layout,
                     group_size, zero_points, group_offsets)


def scales_view(q: Quantized) -> Any:
    """The scales, as bf16 where the array's library has no such type."""
    if scale_type(q.format) != "bf16":
        return q.scales
    seen = as_view(q.scales)
    return view(q.scales, "bf16") if seen.dtype.name == "u16" else q.scales


def dequantize(q: Quantized, dtype: Any = "f32", *, modules: ModuleOptions | None = None, stream: Any = None) -> Any:
    """x [M, K] of a quantised matrix, as f32, bf16 or f16: code times scales, then one rounding to the type."""
    if compiling(q.codes):
        import torch
        wanted = getattr(torch, dtype_of(dtype).torch)
        return _torch_ops().dequantize(q.codes, q.scales, q.format, q.layout, q.group_size, q.shape[1], q.zeros,
                                       q.global_scale, q.row_scales, q.group_offsets, wanted)
    return _dequantize(q, dtype, modules, stream)


def _dequantize(q: Quantized, dtype: Any, modules: ModuleOptions | None = None, stream: Any = None) -> Any:
    codes = as_view(q.codes)
    number = stream_of(codes.device, stream)
    handle = _quantizer(device_name(codes.device), modules, q.format, q.layout, "up", q.group_size, q.zero_points,
                        None, *(None, None, None))
    with on_stream(codes.device, number):
        out = allocate(codes, q.shape, dtype_of(dtype))
    tensors = Tensors(number)
    run = _abi.new(_abi.QuantizeRun)
    run.x, run.codes, run.scales = (tensors.pointer(t) for t in (out, q.codes, scales_view(q)))
    run.zeros, run.global_scale = tensors.pointer(q.zeros), tensors.pointer(q.global_scale)
    run.row_scales, run.group_offsets = tensors.pointer(q.row_scales), tensors.pointer(q.group_offsets)
    _abi.call("moesaic_quantizer_dequantize", handle.value, ctypes.byref(run), number)
    return bare(out)


def _torch_ops() -> Any:
    from . import _torch_ops as ops
    return ops.OPS
