# SPDX-License-Identifier: Apache-2.0
"""A MoE layer of a hub checkpoint, called from numpy. Usage: checkpoint_layer.py FOLDER"""

import sys

import numpy as np

import moesaic

layer = moesaic.from_checkpoint(sys.argv[1], max_tokens=64)  # the first MoE layer; on a GPU: device="cuda:0"
x = np.random.default_rng(0).standard_normal((4, layer.config.hidden)).astype(np.float32)
bits = (x.view(np.uint32) >> 16).astype(np.uint16)  # numpy has no bf16: its upper half is one
y = layer(bits, dtype="bf16", out_dtype="f32")
print(layer.config, *layer.kernels(tokens=4))
print("x", x.shape, x.dtype, "-> y", y.shape, y.dtype, "of norm", np.linalg.norm(y))
sys.exit(0 if np.isfinite(y).all() and y.any() else "y is not finite, or nothing")
