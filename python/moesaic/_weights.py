# SPDX-License-Identifier: Apache-2.0
"""A layer's weights: matrices of numbers or codes as they lie in memory, experts, and handles of all of them."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from typing import Any

from . import _abi
from ._config import MoeConfig, to_c
from ._errors import InvalidArgumentError
from ._quantize import Quantized, block_of, is_four_bits, scales_view
from ._tensor import Tensors, as_view, device_name, device_of, is_torch


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix [R, C] of numbers, or of codes as a checkpoint stores them; moesaic_matrix of moesaic.h says it all.

    values: numbers or 8-bit codes [R, C], any strides; 4-bit codes u8 [R, C / 2], or words with rows, cols and strides.
    codes: "none", "e4m3", "e5m2", "e2m1", "int4". scales: [ceil(R / block_rows), ceil(C / block_cols)].
    value = code * scale * multiplier; zeros: 4-bit zero points of int4, one for every scale.
    """

    values: Any
    codes: str = "none"
    scales: Any = None
    scale_format: str = "f32"
    block_rows: int = 1
    block_cols: int = 1
    multiplier: float = 1.0
    nibble_order: str = "linear"
    rows: int = 0
    cols: int = 0
    row_stride: int = 0
    col_stride: int = 0
    zeros: Any = None
    zero_order: str = "linear"
    zero_row_stride: int = 0
    zero_col_stride: int = 0
    zero_offset: int = 0


@dataclasses.dataclass(frozen=True)
class Expert:
    """One expert: gate [I, H], up [I, H] (gated activations), down [H, I], each a tensor, a `Matrix` or a `Quantized`;
    biases [I], [I], [H]; static scales of the activations, 0 for none."""

    gate: Any
    up: Any
    down: Any
    gate_bias: Any = None
    up_bias: Any = None
    down_bias: Any = None
    input_scale: float = 0.0
    down_input_scale: float = 0.0


_CODES = {"nvfp4": "e2m1", "nvfp4_row": "e2m1", "mxfp4": "e2m1", "mxfp8_e5m2": "e5m2", "int4": "int4"}
_SCALES = {"nvfp4": "e4m3", "mxfp4": "e8m0", "mxfp8": "e8m0", "mxfp8_e5m2": "e8m0", "int4": "bf16"}


def _scalar(value: Any) -> float:
    if is_torch(value):
        return float(value.reshape(()))
    made = as_view(value)
    return float(ctypes.cast(made.tensor.data + made.tensor.byte_offset, ctypes.POINTER(ctypes.c_float))[0])


def _matrix_of(q: Quantized) -> Matrix:
    """A quantised matrix as weights."""
    if q.layout != "linear":
        raise InvalidArgumentError(f"weights: scales have layout {q.layout}, wanted linear")
    if q.format in ("nvfp4_row", "fp8_static"):
        raise InvalidArgumentError(f"weights: the format is {q.format}, wanted one with scales of its own and none of "
                                   "rows beside them (nvfp4, fp8_row, ...)")
    k = q.shape[1]
    rows, cols = block_of(q.format, q.group_size)
    extra: dict[str, Any] = {}
    if q.zeros is not None:  # bytes with a zero point each
        extra = {"zeros": q.zeros, "zero_row_stride": 2 * (k // q.group_size), "zero_col_stride": 2}
    if q.format == "nvfp4":
        extra["multiplier"] = 1.0 / _scalar(q.global_scale)
    return Matrix(q.codes, _CODES.get(q.format, "e4m3"), scales_view(q), _SCALES.get(q.format, "f32"),
                  q.shape[0] if rows is None else rows, k if cols is None else cols,
                  cols=k if is_four_bits(q.format) else 0, **extra)


def matrix_to_c(matrix: Any, tensors: Tensors) -> Any:
    """moesaic_matrix* of a tensor, a Matrix or a Quantized; NULL for None."""
    if matrix is None:
        return None
    if isinstance(matrix, Quantized):
        matrix = _matrix_of(matrix)
    if not isinstance(matrix, Matrix):
        matrix = Matrix(matrix)
    c = _abi.new(_abi.Matrix)
    c.values, c.scales = tensors.pointer(matrix.values), tensors.pointer(matrix.scales)
    c.zeros = tensors.pointer(matrix.zeros)
    c.codes = _abi.number(_abi.CODE_FORMATS, matrix.codes, "codes")
    c.scale_format = _abi.number(_abi.SCALE_FORMATS, matrix.scale_format, "scale_format")
    c.nibble_order = _abi.number(_abi.NIBBLE_ORDERS, matrix.nibble_order, "nibble_order")
    c.zero_order = _abi.number(_abi.NIBBLE_ORDERS, matrix.zero_order, "zero_order")
    for name in ("block_rows", "block_cols", "multiplier", "rows", "cols", "row_stride", "col_stride",
                 "zero_row_stride", "zero_col_stride", "zero_offset"):
        setattr(c, name, getattr(matrix, name))
    return tensors.keep(ctypes.pointer(c))


def expert_to_c(expert: Expert | None, tensors: Tensors) -> Any:
    """moesaic_expert*; NULL for None."""
    if expert is None:
        return None
    c = _abi.new(_abi.Expert)
    for name in ("gate", "up", "down"):
        setattr(c, name, matrix_to_c(getattr(expert, name), tensors))
    for name in ("gate_bias", "up_bias", "down_bias"):
        setattr(c, name, tensors.pointer(getattr(expert, name)))
    c.input_scale, c.down_input_scale = expert.input_scale, expert.down_input_scale
    return tensors.keep(ctypes.pointer(c))


class Weights:
    """Views of a layer's weights; the tensors live as long as this object. L: experts held, all of E by default.

    Fused: w13 [E, 2I, H] (not gated: [E, I, H]) and w2 [E, H, I], or with `transposed` [E, H, 2I] and [E, I, H];
    b13 [E, 2I], b2 [E, H]; gate_up_order "gate_first", "up_first", "interleaved_gate_first" or "interleaved_up_first".
    Or experts: a sequence of `Expert`, with weights in any format.
    router [E, H]; router_bias, selection_bias [E]; shared: an `Expert`; shared_gate [H]; token_experts i32
    [vocabulary, k]. All on one device, which `device` says.
    """

    def __init__(self, *, w13: Any = None, w2: Any = None, b13: Any = None, b2: Any = None,
                 gate_up_order: str = "gate_first", gated: bool = True, transposed: bool = False,
                 experts: Sequence[Expert] = (), router: Any = None, router_bias: Any = None,
                 selection_bias: Any = None, shared: Expert | None = None, shared_gate: Any = None,
                 token_experts: Any = None) -> None:
        tensors = Tensors()
        c = _abi.new(_abi.WeightViews)
        for name, value in (("w13", w13), ("w2", w2), ("b13", b13), ("b2", b2), ("router", router),
                            ("router_bias", router_bias), ("selection_bias", selection_bias),
                            ("shared_gate", shared_gate), ("token_experts", token_experts)):
            setattr(c, name, tensors.pointer(value))
        c.gate_up_order = _abi.number(_abi.GATE_UP_ORDERS, gate_up_order, "gate_up_order")
        c.gated, c.transposed = gated, transposed
        pointers = [expert_to_c(expert, tensors) for expert in experts]
        if pointers:
            c.experts = (ctypes.POINTER(_abi.Expert) * len(pointers))(*pointers)
            c.num_experts = len(pointers)
        c.shared = expert_to_c(shared, tensors)
        self._handle = _abi.Handle("moesaic_weights_destroy", "moesaic_weights_create", ctypes.byref(c))
        self._kept: Any = tensors
        self.device: str = tensors.device

    @classmethod
    def _of(cls, handle: _abi.Handle, kept: Any, device: str) -> Weights:
        made = cls.__new__(cls)
        made._handle, made._kept, made.device = handle, kept, device
        return made

    def convert(self, config: MoeConfig) -> Weights:
        """Weights on the host in the formats of config.recipe and config.shared_recipe: what has them already is
        viewed, what has not is dequantised and quantised (moesaic::convert_weights)."""
        handle = _abi.Handle("moesaic_weights_destroy", "moesaic_weights_convert", ctypes.byref(to_c(config)),
                             self._handle.value)
        return Weights._of(handle, self, "cpu")

    def to(self, device: Any) -> Weights:
        """A copy of weights on the host on a CUDA device."""
        handle = _abi.Handle("moesaic_weights_destroy", "moesaic_weights_to_device", self._handle.value,
                             device_of(device))
        return Weights._of(handle, None, device_name(device_of(device)))
