# SPDX-License-Identifier: Apache-2.0
"""The products of a layer alone: rows times one weight matrix, or rows of groups times their group's."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

from . import _abi
from ._config import ModuleOptions, modules_to_c
from ._errors import InvalidArgumentError, UnsupportedError
from ._quantize import Quantized
from ._tensor import Memory, Tensors, allocate, as_view, bare, compiling, device_name, device_of, dtype_of, on_stream, \
    stream_of, torch_module, view, workspace
from ._weights import Matrix, matrix_to_c

_numbers = itertools.count()
GEMMS: weakref.WeakValueDictionary[str, Gemm] = weakref.WeakValueDictionary()  # by key, for torch's custom ops


def _shape_of(w: Any) -> tuple[int, ...]:
    if isinstance(w, Quantized):
        return w.shape
    if isinstance(w, Matrix) and w.rows and w.cols:
        return w.rows, w.cols
    shape = as_view(w.values if isinstance(w, Matrix) else w).shape
    if isinstance(w, Matrix) and w.codes in ("e2m1", "int4"):
        return (*shape[:-1], 2 * shape[-1])
    return shape


class Gemm:
    """out[m, n] = alpha * sum_k a[m, k] W_g[n, k] + bias_g[n], g the group of row m; a is x as the recipe's activations
    are. FP32 sums, one rounding. On the CPU plain FP64 loops: right, not fast.

    weights: W [n, k] of every group in the recipe's format (a tensor, a `Quantized` or a `Matrix`), or one tensor
    [groups, n, k]. biases: [n] of every group, or None. max_rows: the most rows of one call. int4_f32_scales: int4 scales
    that neither bf16 nor fp16 holds.
    """

    def __init__(self, weights: Any, biases: Sequence[Any] | None = None, *, recipe: str = "bf16",
                 int4_group_size: int = 32, int4_zero_points: bool = False, e5m2: bool = False, max_rows: int = 8192,
                 modules: ModuleOptions | None = None, stream: Any = None, int4_f32_scales: bool = False) -> None:
        if not isinstance(weights, (list, tuple)):
            weights = list(weights) if not isinstance(weights, (Quantized, Matrix)) and len(_shape_of(weights)) == 3 \
                else [weights]
        if not weights or len(_shape_of(weights[0])) != 2:
            raise InvalidArgumentError("gemm: weights are none, wanted W [n, k] of every group, or [groups, n, k]")
        if biases is not None and len(biases) != len(weights):
            raise InvalidArgumentError(f"gemm: there are {len(biases)} biases, wanted {len(weights)}: one a group")
        self.n: int
        self.k: int
        self.n, self.k = _shape_of(weights[0])
        self.groups: int = len(weights)
        self.recipe: str = recipe
        self.key: str = f"gemm{next(_numbers)}"
        tensors = Tensors()
        pointers = [self._weights_to_c(w, None if biases is None else biases[g], tensors)
                    for g, w in enumerate(weights)]
        c = _abi.new(_abi.GemmConfig)
        c.n, c.k, c.groups, c.e5m2, c.recipe = self.n, self.k, self.groups, e5m2, recipe.encode()
        c.int4_group_size, c.int4_zero_points, c.max_rows = int4_group_size, int4_zero_points, max_rows
        c.int4_f32_scales = int4_f32_scales
        self._device = c.device = device_of(tensors.device)
        self._handle = _abi.Handle("moesaic_gemm_destroy", "moesaic_gemm_create", ctypes.byref(c),
                                   modules_to_c(modules))
        self._prepared = Memory(self._device, _abi.size("moesaic_gemm_prepared_bytes", self._handle.value))
        array = (ctypes.POINTER(_abi.GemmWeights) * len(pointers))(*pointers)
        _abi.call("moesaic_gemm_prepare", self._handle.value, array, len(pointers), self._prepared.data,
                  stream_of(self._device, stream))
        _abi.call("moesaic_synchronize", self._device)
        self._kept = tensors if self.device == "cpu" else None  # there the prepared form is views
        GEMMS[self.key] = self
        if torch_module() is not None:
            from . import _torch_ops  # noqa: F401  torch.compile must find the ops

    @staticmethod
    def _weights_to_c(w: Any, bias: Any, tensors: Tensors) -> Any:
        c = _abi.new(_abi.GemmWeights)
        c.bias = tensors.pointer(bias)
        c.w = matrix_to_c(w, tensors)
        return tensors.keep(ctypes.pointer(c))

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return device_name(self._device)

    def kernels(self, rows: int) -> list[str]:
        """The kernels that a call with `rows` rows uses, in launch order."""
        return _abi.text("moesaic_gemm_kernels", self._handle.value, rows).split()

    def __call__(self, x: Any, *, offsets: Any = None, counts: Any = None, alpha: float = 1.0, x_scale: Any = None,
                 x_row_scale: Any = None, scale_major: str = "k", input_scale: Any = None, out: Any = None,
                 out_dtype: Any = None, dtype: Any = None, stream: Any = None) -> Any:
        """out [M, n] of x [M, k] (bf16; recipe fp16: f16), or of codes with their scales (GemmRun::x_scale in gemm.h).

        Several groups: offsets i32 [groups + 1], rows [offsets[g], offsets[g + 1]) are group g's; or counts i32
        [groups] with x [groups, max, k], the first counts[g] of group g's rows are used. Rows of no group stay as they
        were in `out`. input_scale f32 [1]: x is quantised by it (fp8_tensor, nvfp4).
        out: bf16, f16 or f32; else a tensor of x's library of type `out_dtype`, x's by default.
        """
        if compiling(x):
            return _compiled(self, x, offsets, counts, alpha, x_scale, x_row_scale, scale_major, input_scale, out,
                             out_dtype, stream)
        number = stream_of(self._device, stream)
        source = as_view(x if dtype is None else view(x, dtype), number)
        rows = 1
        for extent in source.shape[:-1]:
            rows *= extent
        if out is None:
            wanted = dtype_of(out_dtype) if out_dtype is not None else source.dtype
            if wanted.bits == 8:
                wanted = dtype_of("f16" if self.recipe == "fp16" else "bf16")
            with on_stream(self._device, number):
                out = allocate(source, (*source.shape[:-1], self.n), wanted)
        tensors = Tensors(number)
        run = _abi.new(_abi.GemmRun)
        for name, value in (("x", source), ("out", out), ("x_scale", x_scale), ("x_row_scale", x_row_scale),
                            ("input_scale", input_scale), ("group_offsets", offsets), ("group_counts", counts)):
            setattr(run, name, tensors.pointer(value))
        run.alpha, run.scale_major = alpha, _abi.number(_abi.SCALE_MAJORS, scale_major, "scale_major")
        run.prepared = self._prepared.data
        size = _abi.size("moesaic_gemm_workspace_bytes", self._handle.value, rows)
        space = workspace(self._device, number, size)
        run.workspace, run.workspace_bytes = space.data, space.size
        _abi.call("moesaic_gemm_multiply", self._handle.value, ctypes.byref(run), number)
        return bare(out)


def _compiled(op: Gemm, x: Any, offsets: Any, counts: Any, alpha: float, x_scale: Any, x_row_scale: Any,
              scale_major: str, input_scale: Any, out: Any, out_dtype: Any, stream: Any) -> Any:
    """The call as torch's custom op, while torch.compile traces."""
    import torch

    from ._torch_ops import OPS
    if stream is not None or out is not None:
        raise UnsupportedError("gemm: under torch.compile out and stream are not served: call it outside of it")
    wanted = None if out_dtype is None else getattr(torch, dtype_of(out_dtype).torch)
    return OPS.gemm(x, op.key, offsets, counts, alpha, x_scale, x_row_scale, scale_major, input_scale, wanted)


def gemm(x: Any, w: Any, bias: Any = None, **arguments: Any) -> Any:
    """x [M, k] (bf16; recipe fp16: f16) times W [n, k] (a `Matrix`, a `Quantized`, or bf16, f16, f32): `Gemm` made for one
    call. w: a `Gemm`, or what it is made of: then the weights are prepared for this call alone. bias: f32, bf16 or f16
    [n]. Arguments are those of `Gemm` and of its call, which names the types of the result."""
    return _once(x, w, None if bias is None else [bias], arguments)


def grouped_gemm(x: Any, weights: Any, biases: Sequence[Any] | None = None, *, offsets: Any = None,
                 counts: Any = None, **arguments: Any) -> Any:
    """Rows of groups times their group's W [n, k] (types as in `gemm`): by offsets (i32 [groups + 1]), x [M, k], or by
    counts (i32 [groups]), x [groups, max, k]. weights: a `Gemm`, or what it is made of: then they are prepared for this
    call alone."""
    return _once(x, weights, biases, {**arguments, "offsets": offsets, "counts": counts})


_OF_CREATE = ("recipe", "int4_group_size", "int4_zero_points", "int4_f32_scales", "e5m2", "max_rows", "modules")


def _once(x: Any, w: Any, biases: Sequence[Any] | None, arguments: dict[str, Any]) -> Any:
    if isinstance(w, Gemm):
        return w(x, **arguments)
    if compiling(x):
        raise UnsupportedError("gemm: under torch.compile the weights must be prepared before: give a Gemm")
    create = {name: arguments.pop(name) for name in _OF_CREATE if name in arguments}
    op = Gemm(w, biases, stream=arguments.get("stream"), **create)
    result = op(x, **arguments)
    if op.device != "cpu":
        _abi.call("moesaic_synchronize", op._device)  # the prepared weights go with `op`
    return result
