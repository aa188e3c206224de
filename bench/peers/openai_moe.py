# SPDX-License-Identifier: Apache-2.0
"""A layer by triton_kernels (matmul_ogs; MIT, of triton-lang/triton, which vLLM's wheel carries under
vllm/third_party): put its folder on PYTHONPATH. Routing from logits is part of it. A peer to measure against."""

import torch
import triton.language as tl
from triton import jit
from triton_kernels.matmul_ogs import FnSpecs, FusedActivation, matmul_ogs
from triton_kernels.routing import routing


@jit
def gate_times_up(pairs, alpha, limit):
    """SwiGLU of neighbouring columns: theirs adds 1 to up, as gpt-oss does."""
    gate, up = tl.split(tl.reshape(pairs, (pairs.shape[0], pairs.shape[1] // 2, 2)))
    gate = gate.to(tl.float32)
    return gate / (1 + tl.exp(-alpha * gate)) * up.to(tl.float32)


ACTIVATION = FusedActivation(FnSpecs("swiglu", gate_times_up, ("alpha", "limit")), (1.0, None), 2)


def neighbours(w13):
    """w13 [E, 2I, H], gate rows before up rows, as [E, H, 2I] whose columns are gate and up in turns, K contiguous."""
    gate, up = w13.chunk(2, dim=1)
    return torch.stack((gate, up), dim=2).flatten(1, 2).transpose(1, 2)


def run(x, logits, top_k, pairs, w2, out):
    """out [T, H] of x [T, H], logits f32 [T, E], `neighbours(w13)` and w2 [E, H, I]."""
    data, gather, scatter = routing(logits, top_k)
    h = matmul_ogs(x, pairs, None, data, gather_indx=gather, fused_activation=ACTIVATION)
    matmul_ogs(h.view(-1, w2.shape[2]), w2.transpose(1, 2), None, data, scatter_indx=scatter, gammas=data.gate_scal,
               y=out.unsqueeze(0))
