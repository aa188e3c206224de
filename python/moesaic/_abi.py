# SPDX-License-Identifier: Apache-2.0
"""moesaic.h and DLPack's structs in ctypes, and the shared library beside this file. tests/test_abi.py holds every
struct, enumerator and function against the header."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, \
    c_uint64, c_void_p
from typing import Any, TypeVar

from ._errors import BY_STATUS, Error

ABI_VERSION = 1  # MOESAIC_ABI_VERSION
PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(PACKAGE_FOLDER, "libmoesaic.so")


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("device", DLDevice), ("ndim", c_int32), ("dtype", DLDataType),
                ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64)]


class DLManagedTensor(ctypes.Structure):
    _fields_ = [("dl_tensor", DLTensor), ("manager_ctx", c_void_p), ("deleter", c_void_p)]


Tensor = POINTER(DLTensor)
EXTENTS = POINTER(c_int64)


class Matrix(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("values", Tensor), ("codes", c_int32), ("nibble_order", c_int32),
                ("rows", c_int64), ("cols", c_int64), ("row_stride", c_int64), ("col_stride", c_int64),
                ("scales", Tensor), ("scale_format", c_int32), ("block_rows", c_int64), ("block_cols", c_int64),
                ("multiplier", c_double), ("zeros", Tensor), ("zero_order", c_int32), ("zero_row_stride", c_int64),
                ("zero_col_stride", c_int64), ("zero_offset", c_int32)]


class Expert(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("gate", POINTER(Matrix)), ("up", POINTER(Matrix)),
                ("down", POINTER(Matrix)), ("gate_bias", Tensor), ("up_bias", Tensor), ("down_bias", Tensor),
                ("input_scale", c_float), ("down_input_scale", c_float)]


class WeightViews(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("experts", POINTER(POINTER(Expert))), ("num_experts", c_size_t),
                ("w13", Tensor), ("w2", Tensor), ("b13", Tensor), ("b2", Tensor), ("gate_up_order", c_int32),
                ("gated", c_int32), ("transposed", c_int32), ("router", Tensor), ("router_bias", Tensor),
                ("selection_bias", Tensor), ("shared", POINTER(Expert)), ("shared_gate", Tensor),
                ("token_experts", Tensor)]


class MoeConfig(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("hidden", c_int32), ("intermediate", c_int32), ("num_experts", c_int32),
                ("top_k", c_int32), ("recipe", c_char_p), ("int4_group_size", c_int32), ("int4_zero_points", c_int32),
                ("activation", c_int32), ("alpha", c_float), ("beta", c_float), ("limit", c_float),
                ("routing", c_int32), ("n_group", c_int32), ("topk_group", c_int32), ("scaling", c_float),
                ("renormalize", c_int32), ("shared_intermediate", c_int32), ("shared_gated", c_int32),
                ("shared_recipe", c_char_p), ("router", c_int32), ("weights_on_input", c_int32),
                ("max_tokens", c_int32), ("device", DLDevice), ("expert_slots", POINTER(c_int32)),
                ("num_expert_slots", c_size_t), ("experts_first", c_int32), ("experts_count", c_int32),
                ("tp_rank", c_int32), ("tp_size", c_int32), ("vocabulary", c_int32), ("batch_invariant", c_int32),
                ("int4_f32_scales", c_int32), ("static_scales", c_int32)]


class ModuleOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("bundles", POINTER(c_char_p)), ("num_bundles", c_size_t),
                ("cache_dir", c_char_p), ("jit", c_int32), ("nvrtc", c_char_p), ("force_kernel", c_char_p),
                ("force_target", c_char_p)]


class MoeRun(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("x", Tensor), ("router_logits", Tensor), ("topk_ids", Tensor),
                ("topk_weights", Tensor), ("out", Tensor), ("prepared", c_void_p), ("workspace", c_void_p),
                ("workspace_bytes", c_size_t), ("logits_out", Tensor), ("topk_ids_out", Tensor),
                ("topk_weights_out", Tensor), ("token_ids", Tensor), ("expert_offsets", Tensor),
                ("expert_counts", Tensor), ("x_scale", Tensor), ("x_row_scale", Tensor)]


class QuantSpec(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("format", c_int32), ("layout", c_int32), ("e8m0", c_int32),
                ("int4_group_size", c_int32), ("int4_zero_points", c_int32), ("activation", c_int32),
                ("alpha", c_float), ("beta", c_float), ("limit", c_float)]


class QuantSizes(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("code_bytes", c_int64), ("scale_rows", c_int64), ("scale_cols", c_int64),
                ("scale_bytes", c_int64), ("zero_bytes", c_int64)]


class QuantizeRun(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("x", Tensor), ("codes", Tensor), ("scales", Tensor), ("zeros", Tensor),
                ("global_scale", Tensor), ("row_scales", Tensor), ("group_offsets", Tensor)]


class RouterConfig(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("num_experts", c_int32), ("top_k", c_int32), ("routing", c_int32),
                ("n_group", c_int32), ("topk_group", c_int32), ("scaling", c_float), ("renormalize", c_int32),
                ("vocabulary", c_int32), ("expert_slots", POINTER(c_int32)), ("num_expert_slots", c_size_t),
                ("experts_first", c_int32), ("experts_count", c_int32), ("shared_slots", c_int32),
                ("shared_weight", c_float), ("max_tokens", c_int32), ("device", DLDevice)]


class RouteRun(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("logits", Tensor), ("selection_bias", Tensor), ("token_ids", Tensor),
                ("token_experts", Tensor), ("given_ids", Tensor), ("given_weights", Tensor), ("ids", Tensor),
                ("weights", Tensor), ("row_offsets", Tensor), ("row_token", Tensor), ("row_weight", Tensor),
                ("slot_row", Tensor), ("workspace", c_void_p), ("workspace_bytes", c_size_t)]


class GemmConfig(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("n", c_int32), ("k", c_int32), ("groups", c_int32), ("e5m2", c_int32),
                ("recipe", c_char_p), ("int4_group_size", c_int32), ("int4_zero_points", c_int32),
                ("max_rows", c_int32), ("device", DLDevice), ("int4_f32_scales", c_int32)]


class GemmWeights(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("w", POINTER(Matrix)), ("bias", Tensor)]


class GemmRun(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("x", Tensor), ("x_scale", Tensor), ("x_row_scale", Tensor),
                ("scale_major", c_int32), ("alpha", c_float), ("input_scale", Tensor), ("group_offsets", Tensor),
                ("group_counts", Tensor), ("out", Tensor), ("prepared", c_void_p), ("workspace", c_void_p),
                ("workspace_bytes", c_size_t)]


# Struct by its name in the header; those of activations alone have no binding.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "moesaic_matrix": Matrix, "moesaic_expert": Expert, "moesaic_weight_views": WeightViews,
    "moesaic_moe_config": MoeConfig, "moesaic_module_options": ModuleOptions, "moesaic_moe_run": MoeRun,
    "moesaic_quant_spec": QuantSpec, "moesaic_quant_sizes": QuantSizes, "moesaic_quantize_run": QuantizeRun,
    "moesaic_router_config": RouterConfig, "moesaic_route_run": RouteRun, "moesaic_gemm_config": GemmConfig,
    "moesaic_gemm_weights": GemmWeights, "moesaic_gemm_run": GemmRun,
}

# Enumerators in the header's order, by the names that the library's own texts use.
ACTIVATIONS = ("gelu", "relu", "silu", "swiglu", "geglu", "swiglu_bias", "relu2", "swiglu_step", "geglu_tanh",
               "identity", "situ")
ROUTINGS = ("softmax_topk", "softmax_topk_renorm", "topk_softmax", "deepseek_v3", "deepseek_v2", "llama4", "topk",
            "sigmoid", "minimax2", "hash")
GATE_UP_ORDERS = ("gate_first", "up_first", "interleaved_gate_first", "interleaved_up_first")
REFERENCE_MODES = ("exact", "oracle")
CODE_FORMATS = ("none", "e4m3", "e5m2", "e2m1", "int4")
SCALE_FORMATS = ("f32", "bf16", "f16", "e4m3", "e8m0")
NIBBLE_ORDERS = ("linear", "words_along_c", "words_along_r", "awq")
QUANT_FORMATS = ("nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_static", "fp8_tensor", "fp8_row",
                 "fp8_1x128", "fp8_128x128", "int4")
SCALE_LAYOUTS = ("linear", "128x4", "8x4")
SCALE_MAJORS = ("k", "mn")
E8M0_ROUNDINGS = ("up", "floor")

HANDLE = c_void_p  # of any kind
_H, _OUT, _TEXT = HANDLE, POINTER(HANDLE), (c_char_p, c_size_t, POINTER(c_size_t))
_SIZE, _STREAM = POINTER(c_size_t), c_void_p

# Arguments of the functions that return a moesaic_status.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    **{f"{name}_init": (POINTER(struct), c_size_t) for name, struct in STRUCTS.items()},
    "moesaic_memory_create": (DLDevice, c_size_t, _OUT),
    "moesaic_synchronize": (DLDevice,),
    "moesaic_weights_create": (POINTER(WeightViews), _OUT),
    "moesaic_weights_convert": (POINTER(MoeConfig), _H, _OUT),
    "moesaic_weights_to_device": (_H, DLDevice, _OUT),
    "moesaic_moe_create": (POINTER(MoeConfig), POINTER(ModuleOptions), _OUT),
    "moesaic_moe_prepared_bytes": (_H, _SIZE),
    "moesaic_moe_prepare": (_H, _H, c_void_p, _STREAM),
    "moesaic_moe_prepare_expert": (_H, c_int32, POINTER(Expert), c_void_p, _STREAM),
    "moesaic_moe_save_prepared": (_H, c_void_p, c_char_p, _STREAM),
    "moesaic_moe_load_prepared": (_H, c_char_p, c_void_p, _STREAM),
    "moesaic_moe_workspace_bytes": (_H, c_int64, _SIZE),
    "moesaic_moe_dispatched_workspace_bytes": (_H, c_int64, _SIZE),
    "moesaic_moe_run_layer": (_H, POINTER(MoeRun), _STREAM),
    "moesaic_moe_kernels": (_H, c_int64, *_TEXT),
    "moesaic_reference_moe": (POINTER(MoeConfig), _H, c_int32, POINTER(MoeRun)),
    "moesaic_explain": (POINTER(MoeConfig), c_int64, *_TEXT),
    "moesaic_router_create": (POINTER(RouterConfig), POINTER(ModuleOptions), _OUT),
    "moesaic_router_workspace_bytes": (_H, c_int64, _SIZE),
    "moesaic_router_route": (_H, POINTER(RouteRun), _STREAM),
    "moesaic_gemm_create": (POINTER(GemmConfig), POINTER(ModuleOptions), _OUT),
    "moesaic_gemm_prepared_bytes": (_H, _SIZE),
    "moesaic_gemm_prepare": (_H, POINTER(POINTER(GemmWeights)), c_size_t, c_void_p, _STREAM),
    "moesaic_gemm_workspace_bytes": (_H, c_int64, _SIZE),
    "moesaic_gemm_multiply": (_H, POINTER(GemmRun), _STREAM),
    "moesaic_gemm_kernels": (_H, c_int64, *_TEXT),
    "moesaic_quantizer_create": (POINTER(QuantSpec), DLDevice, POINTER(ModuleOptions), _OUT),
    "moesaic_quant_sizes_of": (POINTER(QuantSpec), c_int64, c_int64, POINTER(QuantSizes)),
    "moesaic_weight_spec": (c_char_p, c_int32, c_int32, POINTER(QuantSpec), POINTER(c_int32)),
    "moesaic_quantizer_quantize": (_H, POINTER(QuantizeRun), _STREAM),
    "moesaic_quantizer_dequantize": (_H, POINTER(QuantizeRun), _STREAM),
    "moesaic_checkpoint_open": (c_char_p, _OUT),
    "moesaic_checkpoint_family": (_H, POINTER(c_char_p)),
    "moesaic_checkpoint_moe_layers": (_H, POINTER(POINTER(c_int32)), _SIZE),
    "moesaic_checkpoint_load": (_H, c_int32, POINTER(MoeConfig), _OUT),
}

# Functions that cannot fail: what they return, and their arguments.
QUESTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "moesaic_abi_version": (c_uint32, ()),
    "moesaic_version": (c_char_p, ()),
    "moesaic_last_error": (c_char_p, ()),
    "moesaic_memory_data": (c_void_p, (_H,)),
    "moesaic_memory_destroy": (None, (_H,)),
    "moesaic_weights_destroy": (None, (_H,)),
    "moesaic_moe_destroy": (None, (_H,)),
    "moesaic_router_destroy": (None, (_H,)),
    "moesaic_gemm_destroy": (None, (_H,)),
    "moesaic_quantizer_destroy": (None, (_H,)),
    "moesaic_checkpoint_close": (None, (_H,)),
}


def _load() -> ctypes.CDLL:
    if not os.path.exists(LIBRARY):
        raise ImportError(f"{LIBRARY} is not there: install the wheel (`make wheel`), or put the folder `python` of a "
                          "build on PYTHONPATH instead of the sources")
    library = ctypes.CDLL(LIBRARY)
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = c_int32, arguments
    for name, (result, arguments) in QUESTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.moesaic_abi_version()
    if found != ABI_VERSION:
        raise ImportError(f"{LIBRARY} has ABI {found}, this package is for ABI {ABI_VERSION}")
    return library


lib = _load()


def failure(status: int) -> Error:
    """The exception of a status that is not 0, with the library's own text."""
    return BY_STATUS.get(status, Error)(lib.moesaic_last_error().decode(errors="replace"))


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status; a failure is an exception."""
    status = getattr(lib, name)(*arguments)
    if status:
        raise failure(status)


_DEFAULTS: dict[type[ctypes.Structure], ctypes.Structure] = {}
Struct = TypeVar("Struct", bound=ctypes.Structure)
_NAMES = {struct: name for name, struct in STRUCTS.items()}


def new(kind: type[Struct]) -> Struct:
    """A struct with the library's defaults."""
    if kind not in _DEFAULTS:
        made = kind()
        call(f"{_NAMES[kind]}_init", ctypes.byref(made), ctypes.sizeof(made))
        _DEFAULTS[kind] = made
    return kind.from_buffer_copy(_DEFAULTS[kind])


def size(name: str, *arguments: Any) -> int:
    """What a function writes to its last argument, a size."""
    result = c_size_t()
    call(name, *arguments, ctypes.byref(result))
    return result.value


def text(name: str, *arguments: Any) -> str:
    """What a function writes as text."""
    needed = size(name, *arguments, None, 0)
    buffer = ctypes.create_string_buffer(needed)
    call(name, *arguments, buffer, needed, ctypes.byref(c_size_t()))
    return buffer.value.decode()


class Handle:
    """An object of the library, destroyed with this one."""

    def __init__(self, destroy: str, create: str, *arguments: Any) -> None:
        self.value: int | None = None
        self._destroy = getattr(lib, destroy)
        made = HANDLE()
        call(create, *arguments, ctypes.byref(made))
        self.value = made.value

    def __del__(self) -> None:
        if self.value is not None:
            self._destroy(self.value)


def number(names: tuple[str, ...], name: str, what: str) -> int:
    """The enumerator of a name."""
    if name not in names:
        raise BY_STATUS[1](f"{what} is '{name}', wanted one of {', '.join(names)}")
    return names.index(name)
