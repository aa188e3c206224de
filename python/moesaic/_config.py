# SPDX-License-Identifier: Apache-2.0
"""What a layer is and where its kernels come from; include/moesaic/moe.h and module.h say what each field means."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from . import _abi
from ._errors import InvalidArgumentError
from ._tensor import device_name, device_of


def number_or_default(value: float | None) -> float:
    """NaN is the C interface's word for the kind's own default."""
    return math.nan if value is None else value


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """One MoE layer.

    hidden, intermediate, num_experts, top_k: H, I of one routed expert, E, k.
    recipe: a name of ``moesaic recipes``; int4_group_size, int4_zero_points: of recipes with int4 weights.
    int4_f32_scales: prepared int4 weights keep scales in FP32, those that neither bf16 nor fp16 holds.
    activation: "swiglu", "swiglu_bias", ... with alpha, beta, limit (None: the kind's defaults).
    routing: "softmax_topk_renorm", "deepseek_v3", ... with n_group, topk_group, scaling, renormalize, vocabulary.
    shared_intermediate: I of the shared experts, 0 without; shared_gated; shared_recipe (None: the layer's).
    router: the layer has router weights and may be called with x alone.
    max_tokens: the most tokens of one call.
    expert_slots [num_experts]: index in the weights of every expert, -1 for those not held; or instead experts
    [experts_first, experts_first + experts_count), count 0 for all. tp_rank, tp_size: the slice of I that this is.
    batch_invariant: a token's output has the same bits in every batch.
    static_scales: all experts have static scales of both inputs (fp8_tensor, nvfp4), and GEMM 1 quantises its result.
    device: "cpu", "cuda" or "cuda:N".
    """

    hidden: int
    intermediate: int
    num_experts: int
    top_k: int
    recipe: str = "bf16"
    int4_group_size: int = 32
    int4_zero_points: bool = False
    activation: str = "swiglu"
    alpha: float | None = None
    beta: float | None = None
    limit: float | None = None
    routing: str = "softmax_topk_renorm"
    n_group: int = 1
    topk_group: int = 1
    scaling: float = 1.0
    renormalize: bool = True
    shared_intermediate: int = 0
    shared_gated: bool = False
    shared_recipe: str | None = None
    router: bool = True
    weights_on_input: bool = False
    max_tokens: int = 8192
    device: Any = "cpu"
    expert_slots: Sequence[int] | None = None
    experts_first: int = 0
    experts_count: int = 0
    tp_rank: int = 0
    tp_size: int = 1
    vocabulary: int = 0
    batch_invariant: bool = False
    int4_f32_scales: bool = False
    static_scales: bool = False


_SAME = ("hidden", "intermediate", "num_experts", "top_k", "int4_group_size", "int4_zero_points", "n_group",
         "topk_group", "scaling", "renormalize", "shared_intermediate", "shared_gated", "router", "weights_on_input",
         "max_tokens", "experts_first", "experts_count", "tp_rank", "tp_size", "vocabulary", "batch_invariant",
         "int4_f32_scales", "static_scales")
_OPTIONAL = ("alpha", "beta", "limit")


def slots_pointer(slots: Sequence[int] | None) -> tuple[Any, int]:
    """An array of int32, which ctypes keeps in the struct it is assigned to, and its length."""
    if slots is None:
        return None, 0
    return (ctypes.c_int32 * len(slots))(*slots), len(slots)


def to_c(config: MoeConfig) -> _abi.MoeConfig:
    """The C struct."""
    c = _abi.new(_abi.MoeConfig)
    for name in _SAME:
        setattr(c, name, getattr(config, name))
    for name in _OPTIONAL:
        setattr(c, name, number_or_default(getattr(config, name)))
    c.recipe = config.recipe.encode()
    c.shared_recipe = None if config.shared_recipe is None else config.shared_recipe.encode()
    c.activation = _abi.number(_abi.ACTIVATIONS, config.activation, "activation")
    c.routing = _abi.number(_abi.ROUTINGS, config.routing, "routing")
    c.device = device_of(config.device)
    c.expert_slots, c.num_expert_slots = slots_pointer(config.expert_slots)
    return c


def from_c(c: _abi.MoeConfig) -> MoeConfig:
    """What a checkpoint filled in."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(MoeConfig)}
    same: dict[str, Any] = {name: bool(getattr(c, name)) if kinds[name] is bool else getattr(c, name)
                            for name in _SAME}
    optional: dict[str, Any] = {name: None if math.isnan(getattr(c, name)) else getattr(c, name)
                                for name in _OPTIONAL}
    shared = c.shared_recipe.decode() if c.shared_recipe else None
    return MoeConfig(**same, **optional, recipe=c.recipe.decode(), shared_recipe=shared,
                     activation=_abi.ACTIVATIONS[c.activation], routing=_abi.ROUTINGS[c.routing],
                     device=device_name(c.device))


@dataclasses.dataclass(frozen=True)
class ModuleOptions:
    """Where kernels come from; None: the environment (``moesaic doctor`` prints which variables), then defaults.

    bundles: zip files of `compile`. cache_dir. jit: False forbids compiling. nvrtc: path of libnvrtc.
    force_kernel: "row" or "row/config" that must serve its op. force_target: compile and load for this target.
    """

    bundles: Sequence[str] = ()
    cache_dir: str | None = None
    jit: bool | None = None
    nvrtc: str | None = None
    force_kernel: str | None = None
    force_target: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bundles, (str, bytes)):
            raise InvalidArgumentError(f"bundles is {self.bundles!r}, wanted a sequence of paths")
        object.__setattr__(self, "bundles", tuple(str(path) for path in self.bundles))


def modules_to_c(options: ModuleOptions | None) -> Any:
    """A pointer for the create functions; None: everything from the environment."""
    if options is None:
        return None
    c = _abi.new(_abi.ModuleOptions)
    paths = [path.encode() for path in options.bundles]
    c.bundles, c.num_bundles = (ctypes.c_char_p * len(paths))(*paths), len(paths)
    c.jit = -1 if options.jit is None else int(options.jit)
    for name in ("cache_dir", "nvrtc", "force_kernel", "force_target"):
        value = getattr(options, name)
        setattr(c, name, None if value is None else str(value).encode())
    return ctypes.byref(c)
