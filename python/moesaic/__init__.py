# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-Experts layers on NVIDIA GPUs and CPUs; kernels compiled just in time or ahead of time.

Tensors are torch's, numpy's, or of any library with DLPack; results are of the same library. On a GPU work is enqueued
on torch's current stream. Failures are exceptions with the library's own text. T tokens, H hidden size, I intermediate
size, E experts, k experts a token."""

from . import _abi
from ._command import compile
from ._config import ModuleOptions, MoeConfig
from ._errors import CompileError, CudaError, Error, InternalError, InvalidArgumentError, IoError, UnsupportedError
from ._gemm import Gemm, gemm, grouped_gemm
from ._moe import Checkpoint, FusedMoe, explain, from_checkpoint, reference_moe
from ._quantize import Quantized, dequantize, quantize, weight_format
from ._route import Routed, route
from ._tensor import Array, release_workspaces, torch_module, view
from ._weights import Expert, Matrix, Weights

__version__: str = _abi.lib.moesaic_version().decode()

__all__ = [
    "Array", "Checkpoint", "CompileError", "CudaError", "Error", "Expert", "FusedMoe", "Gemm", "InternalError",
    "InvalidArgumentError", "IoError", "Matrix", "ModuleOptions", "MoeConfig", "Quantized", "Routed",
    "UnsupportedError", "Weights", "compile", "dequantize", "explain", "from_checkpoint", "gemm", "grouped_gemm",
    "quantize", "reference_moe", "release_workspaces", "route", "view", "weight_format",
]

if torch_module() is not None:
    from . import _torch_ops  # noqa: F401  torch.compile must find the ops
