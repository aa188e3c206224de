# SPDX-License-Identifier: Apache-2.0
"""The layer: create, prepare, call; layers of checkpoints; what serves a layer and why; the reference."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import threading
import weakref
from typing import Any

from . import _abi
from ._config import MoeConfig, ModuleOptions, from_c, modules_to_c, to_c
from ._errors import UnsupportedError
from ._tensor import CUDA, Memory, Slot, Tensors, View, allocate, as_view, bare, compiling, device_name, dtype_of, \
    is_torch, on_stream, stream_of, torch_module, view, workspace
from ._weights import Expert, Weights, expert_to_c

_numbers = itertools.count()
LAYERS: weakref.WeakValueDictionary[str, FusedMoe] = weakref.WeakValueDictionary()  # by key, for torch's custom ops


class FusedMoe:
    """A layer on a device: its kernels are loaded, its weights prepared. May be called from any thread and stream.

    ``layer = FusedMoe(config, weights); y = layer(x)``. weights: on the layer's device, or on the host, from where
    they are copied; in the recipe's format (`Weights.convert`). Without them, call `prepare` or `load_prepared`.
    The weights are not needed any more once they are prepared.
    """

    def __init__(self, config: MoeConfig, weights: Weights | None = None, *, modules: ModuleOptions | None = None,
                 stream: Any = None) -> None:
        self.config: MoeConfig = config
        self.key: str = f"moe{next(_numbers)}"
        c = to_c(config)
        self._device = c.device
        self._handle = _abi.Handle("moesaic_moe_destroy", "moesaic_moe_create", ctypes.byref(c), modules_to_c(modules))
        self.prepared_bytes: int = _abi.size("moesaic_moe_prepared_bytes", self._handle.value)
        self._prepared: Memory | None = None
        self._hot = _HotCall(c.device)
        self._sizes: dict[int, int] = {}  # workspace by tokens
        LAYERS[self.key] = self
        if torch_module() is not None:
            from . import _torch_ops  # noqa: F401  torch.compile must find the ops
        if weights is not None:
            self.prepare(weights, stream=stream)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return device_name(self._device)

    def _memory(self) -> Memory:
        if self._prepared is None:
            self._prepared = Memory(self._device, self.prepared_bytes)
        return self._prepared

    def prepare(self, weights: Weights, *, stream: Any = None) -> None:
        """Writes the kernels' own form of the weights; done on return. No call may be in flight."""
        number = stream_of(self._device, stream)
        if self._device.device_type == CUDA and weights.device == "cpu":
            weights = weights.to(self.device)
        _abi.call("moesaic_moe_prepare", self._handle.value, weights._handle.value, self._memory().data, number)
        _abi.call("moesaic_synchronize", self._device)

    def prepare_expert(self, index: int, expert: Expert, *, stream: Any = None) -> None:
        """Replaces one expert, whose tensors lie on the layer's device; done on return. No call may be in flight."""
        tensors = Tensors()
        _abi.call("moesaic_moe_prepare_expert", self._handle.value, index, expert_to_c(expert, tensors),
                  self._memory().data, stream_of(self._device, stream))
        _abi.call("moesaic_synchronize", self._device)

    def save_prepared(self, path: str | os.PathLike[str], *, stream: Any = None) -> None:
        """Writes the prepared weights to a file, whole or not at all."""
        _abi.call("moesaic_moe_save_prepared", self._handle.value, self._memory().data, os.fsencode(path),
                  stream_of(self._device, stream))

    def load_prepared(self, path: str | os.PathLike[str], *, stream: Any = None) -> None:
        """Prepared weights from such a file, or the reason why they are not this layer's."""
        _abi.call("moesaic_moe_load_prepared", self._handle.value, os.fsencode(path), self._memory().data,
                  stream_of(self._device, stream))

    def kernels(self, tokens: int) -> list[str]:
        """The kernels that a call with `tokens` tokens uses, in launch order."""
        return _abi.text("moesaic_moe_kernels", self._handle.value, tokens).split()

    def workspace_bytes(self, tokens: int) -> int:
        """Workspace of a call with `tokens` tokens."""
        return _abi.size("moesaic_moe_workspace_bytes", self._handle.value, tokens)

    def __call__(self, x: Any, *, router_logits: Any = None, topk_ids: Any = None, topk_weights: Any = None,
                 token_ids: Any = None, out: Any = None, out_dtype: Any = None, dtype: Any = None,
                 expert_offsets: Any = None, expert_counts: Any = None, x_scale: Any = None, x_row_scale: Any = None,
                 logits_out: Any = None, topk_ids_out: Any = None, topk_weights_out: Any = None,
                 stream: Any = None) -> Any:
        """y [T, H] of x [T, H] (bf16; recipe fp16: f16), T from 0 to max_tokens.

        router_logits: f32 [T, E], else of the prepared router. topk_ids i32 and topk_weights f32 [T, k]: routing is
        skipped. token_ids: i64 or i32 [T], routing "hash". x_scale, x_row_scale: x is codes (MoeRun::x_scale in moe.h).
        expert_offsets i32 [L + 1] with x [R, H], or expert_counts i32 [L] with x [L, max, H]: rows that were dispatched
        before; no routing, no sum.
        out: where to write, x's type or f32; else a tensor of x's library, of x's type or `out_dtype`.
        dtype: of x where its library cannot say it ("bf16" of uint16).
        logits_out f32 [T, E], topk_ids_out i32 and topk_weights_out f32 [T, k]: written where given.
        stream: torch's current one by default; an int (CUstream), or a stream of torch or CuPy.
        """
        if compiling(x):
            return _compiled(self, x, router_logits, topk_ids, topk_weights, token_ids, out, out_dtype, x_scale,
                             x_row_scale, expert_offsets, expert_counts, logits_out, topk_ids_out, topk_weights_out,
                             stream)
        if is_torch(x) and not any(value is not None for value in (
                token_ids, dtype, expert_offsets, expert_counts, x_scale, x_row_scale, logits_out, topk_ids_out,
                topk_weights_out, stream)):
            y = self._call_torch(x, router_logits, topk_ids, topk_weights, out, out_dtype)
            if y is not None:
                return y
        number = stream_of(self._device, stream)
        source = as_view(x if dtype is None else view(x, dtype), number)
        if out is None:
            wanted = dtype_of(out_dtype) if out_dtype is not None else self._out_type(source)
            with on_stream(self._device, number):
                out = allocate(source, self._out_shape(source), wanted)
        tensors = Tensors(number)
        pointer = tensors.pointer
        run = _abi.new(_abi.MoeRun)
        run.x, run.out = pointer(source), pointer(out)
        for name, value in (("router_logits", router_logits), ("topk_ids", topk_ids), ("topk_weights", topk_weights),
                            ("token_ids", token_ids), ("x_scale", x_scale), ("x_row_scale", x_row_scale),
                            ("expert_offsets", expert_offsets), ("expert_counts", expert_counts),
                            ("logits_out", logits_out), ("topk_ids_out", topk_ids_out),
                            ("topk_weights_out", topk_weights_out)):
            if value is not None:
                setattr(run, name, pointer(value))
        if self._prepared is not None:
            run.prepared = self._prepared.data
        space = self._workspace(source, expert_offsets is not None or expert_counts is not None, number)
        if space is not None:
            run.workspace, run.workspace_bytes = space.data, space.size
        status = _run_layer(self._handle.value, ctypes.byref(run), number)
        if status:
            raise _abi.failure(status)
        return bare(out)

    def _call_torch(self, x: Any, router_logits: Any, topk_ids: Any, topk_weights: Any, out: Any,
                    out_dtype: Any) -> Any:
        """The common call with structs that stay; None where it takes a closer look."""
        torch, device, call = torch_module(), x.device, self._hot
        rows = x.shape[0] if x.dim() == 2 else -1
        if not 0 <= rows <= self.config.max_tokens or self._prepared is None or not call.x.fill(x, device):
            return None
        if (device.index or 0, device.type == "cuda") != (self._device.device_id, self._device.device_type == CUDA):
            return None
        if out is None:
            wanted = x.dtype if out_dtype is None else getattr(torch, dtype_of(out_dtype).torch)
            out = torch.empty((rows, self.config.hidden), dtype=wanted, device=device)
        if not isinstance(out, torch.Tensor) or not call.out.fill(out, device):
            return None
        run = call.run
        for name, slot, value in zip(_GIVEN, call.given, (router_logits, topk_ids, topk_weights)):
            if value is not None and not (isinstance(value, torch.Tensor) and slot.fill(value, device)):
                return None
            setattr(run, name, None if value is None else slot.pointer)
        size = self._sizes.get(rows)
        if size is None:
            size = self._sizes[rows] = self.workspace_bytes(rows)
        number = stream_of(self._device)
        space = workspace(self._device, number, size)
        run.prepared, run.workspace, run.workspace_bytes = self._prepared.data, space.data, space.size
        status = _run_layer(self._handle.value, call.pointer, number)
        if status:
            raise _abi.failure(status)
        return out

    def _out_type(self, source: View) -> Any:
        codes = source.dtype.bits == 8
        return dtype_of("f16" if self.config.recipe == "fp16" else "bf16") if codes else source.dtype

    def _out_shape(self, source: View) -> tuple[int, ...]:
        return (*source.shape[:-1], self.config.hidden)

    def _workspace(self, source: View, dispatched: bool, stream: int | None) -> Memory | None:
        rows = 1
        for extent in source.shape[:-1]:
            rows *= extent
        limit = self.config.max_tokens * (self.config.top_k if dispatched else 1)
        if rows > limit:  # the library refuses it by name
            return None
        name = "moesaic_moe_dispatched_workspace_bytes" if dispatched else "moesaic_moe_workspace_bytes"
        size = ctypes.c_size_t()
        status = getattr(_abi.lib, name)(self._handle.value, rows, ctypes.byref(size))
        if status:
            raise _abi.failure(status)
        return workspace(self._device, stream, size.value)


_run_layer = _abi.lib.moesaic_moe_run_layer
_GIVEN = ("router_logits", "topk_ids", "topk_weights")


class _HotCall(threading.local):
    """A thread's structs of one layer's common call."""

    def __init__(self, device: _abi.DLDevice) -> None:
        self.x, self.out, self.given = Slot(device), Slot(device), tuple(Slot(device) for _ in _GIVEN)
        self.run: _abi.MoeRun = _abi.new(_abi.MoeRun)
        self.run.x, self.run.out = self.x.pointer, self.out.pointer
        self.pointer: Any = ctypes.byref(self.run)


def _compiled(layer: FusedMoe, x: Any, router_logits: Any, topk_ids: Any, topk_weights: Any, token_ids: Any, out: Any,
              out_dtype: Any, x_scale: Any, x_row_scale: Any, expert_offsets: Any, expert_counts: Any,
              logits_out: Any, topk_ids_out: Any, topk_weights_out: Any, stream: Any) -> Any:
    """The call as torch's custom op, while torch.compile traces."""
    import torch

    from ._torch_ops import OPS
    if stream is not None or logits_out is not None or topk_ids_out is not None or topk_weights_out is not None:
        raise UnsupportedError("under torch.compile stream and the *_out arguments but out are not served: call the "
                               "layer outside of it")
    wanted = None if out_dtype is None else getattr(torch, dtype_of(out_dtype).torch)
    if out is None:
        return OPS.fused_moe(x, layer.key, router_logits, topk_ids, topk_weights, token_ids, x_scale, x_row_scale,
                             expert_offsets, expert_counts, wanted)
    OPS.fused_moe_out(x, out, layer.key, router_logits, topk_ids, topk_weights, token_ids, x_scale, x_row_scale,
                      expert_offsets, expert_counts)
    return out


class Checkpoint:
    """A folder with config.json and safetensors files of a model family that Moesaic reads."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._handle = _abi.Handle("moesaic_checkpoint_close", "moesaic_checkpoint_open", os.fsencode(folder))
        family = ctypes.c_char_p()
        _abi.call("moesaic_checkpoint_family", self._handle.value, ctypes.byref(family))
        self.family: str = (family.value or b"").decode()
        layers, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        _abi.call("moesaic_checkpoint_moe_layers", self._handle.value, ctypes.byref(layers), ctypes.byref(count))
        self.moe_layers: list[int] = layers[:count.value]

    def load(self, layer: int = -1) -> tuple[MoeConfig, Weights]:
        """Configuration and weights of a layer (-1: the first MoE layer) on the host; the files stay mapped."""
        config = _abi.new(_abi.MoeConfig)
        handle = _abi.Handle("moesaic_weights_destroy", "moesaic_checkpoint_load", self._handle.value, layer,
                             ctypes.byref(config))
        return from_c(config), Weights._of(handle, None, "cpu")


def from_checkpoint(folder: str | os.PathLike[str], layer: int = -1, *, device: Any = "cpu",
                    recipe: str | None = None, modules: ModuleOptions | None = None, **fields: Any) -> FusedMoe:
    """A layer of a hub checkpoint, ready to be called. layer -1: the first MoE layer.

    recipe: None for the one that the checkpoint is stored in, else its weights are converted. fields: others of
    `MoeConfig` to set, such as max_tokens."""
    config, weights = Checkpoint(folder).load(layer)
    config = dataclasses.replace(config, device=device, **fields)
    if recipe is not None and recipe != config.recipe:
        config = dataclasses.replace(config, recipe=recipe, static_scales=False)  # converted weights have none
        weights = weights.convert(config)
    return FusedMoe(config, weights, modules=modules)


def explain(config: MoeConfig, tokens: int = 1) -> str:
    """What serves each step of a call of `tokens` tokens on every architecture, or why nothing does. Needs no GPU."""
    return _abi.text("moesaic_explain", ctypes.byref(to_c(config)), tokens)


def reference_moe(config: MoeConfig, weights: Weights, x: Any, *, mode: str = "oracle", router_logits: Any = None,
                  topk_ids: Any = None, topk_weights: Any = None, token_ids: Any = None, out_dtype: Any = "f64",
                  dtype: Any = None) -> Any:
    """The layer on the CPU by plain FP64 loops: "exact" (no rounding but the output's) or "oracle" (the recipe's
    roundings). x: f32 or the recipe's type [T, H]; gives f64, f32 or the recipe's type [T, H]."""
    source = as_view(x if dtype is None else view(x, dtype))
    out = allocate(source, (source.shape[0], config.hidden), dtype_of(out_dtype))
    tensors = Tensors()
    run = _abi.new(_abi.MoeRun)
    for name, value in (("x", source), ("out", out), ("router_logits", router_logits), ("topk_ids", topk_ids),
                        ("topk_weights", topk_weights), ("token_ids", token_ids)):
        setattr(run, name, tensors.pointer(value))
    _abi.call("moesaic_reference_moe", ctypes.byref(to_c(config)), weights._handle.value,
              _abi.number(_abi.REFERENCE_MODES, mode, "mode"), ctypes.byref(run))
    return bare(out)
