# SPDX-License-Identifier: Apache-2.0
"""What the tests share: bf16 as bits, safetensors files, the layer's formulas in numpy, random layers."""

import json
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"


def to_bf16(x):
    """The bits of the nearest bf16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(x):
    return from_bf16(to_bf16(x))


def read_safetensors(path):
    """Arrays by name; bf16 and fp8 as bits."""
    blob = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    kinds = {"F32": np.float32, "I32": np.int32, "I64": np.int64, "U8": np.uint8, "BF16": np.uint16, "F64": np.float64}
    found = {}
    for name, facts in json.loads(blob[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in facts["data_offsets"])
            found[name] = np.frombuffer(blob[begin:end], kinds[facts["dtype"]]).reshape(facts["shape"])
    return found


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def chosen(scores, k):
    """Ids of the k largest, falling; ties to the lower id."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


def moe(x, w13, w2, logits, k):
    """softmax_topk_renorm, SwiGLU (gate first), h rounded to bf16: x [T, H], w13 [E, 2I, H], w2 [E, H, I]."""
    ids = chosen(logits, k)
    weights = np.take_along_axis(softmax(logits), ids, -1)
    weights /= weights.sum(-1, keepdims=True)
    y = np.zeros(x.shape)
    inner = w2.shape[2]
    for t in range(x.shape[0]):
        for s in range(k):
            e = ids[t, s]
            both = w13[e].astype(np.float64) @ x[t]
            h = rounded(both[:inner] * sigmoid(both[:inner]) * both[inner:]).astype(np.float64)
            y[t] += weights[t, s] * (w2[e].astype(np.float64) @ h)
    return y


def worst_row(got, wanted):
    """Relative L2 of the worst token."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float((np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max())


def near_reference(got, wanted):
    """The same roundings in another order of sums: a row whose activation codes all agree is near, and a code that
    the order moved across a rounding boundary is rare and small."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    rows = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return float(np.median(rows)) < 6e-3 and float(rows.max()) < 0.1


class Layer:
    """Random tensors of a layer, rounded to bf16; `bits_*` are what the library gets."""

    def __init__(self, seed=None, tokens=19, hidden=128, inner=64, experts=7, k=3):
        rng = np.random.default_rng(seed)
        self.shape = {"hidden": hidden, "intermediate": inner, "num_experts": experts, "top_k": k}
        self.k = k
        for name, shape, scale in (("x", (tokens, hidden), 1.0), ("w13", (experts, 2 * inner, hidden), hidden ** -0.5),
                                   ("w2", (experts, hidden, inner), inner ** -0.5),
                                   ("router", (experts, hidden), 2 * hidden ** -0.5)):
            bits = to_bf16(rng.standard_normal(shape) * scale)
            setattr(self, "bits_" + name, bits)
            setattr(self, name, from_bf16(bits))
        self.logits = self.x.astype(np.float64) @ self.router.T.astype(np.float64)

    def wanted(self):
        return moe(self.x, self.w13, self.w2, self.logits, self.k)
