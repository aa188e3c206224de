# SPDX-License-Identifier: Apache-2.0
"""Routings that all peers get, and the floors of a layer: numpy alone. As src/cli/bench_routing.h says what they are;
the random numbers are numpy's."""

import dataclasses
import statistics

import numpy as np

ROUTINGS = 16  # seeded ones of a kind; times are means over them


def parse_routing(text):
    """The exponent of "zipf", "zipf:S", or 0 for "uniform"."""
    if text == "uniform":
        return 0.0
    kind, _, exponent = text.partition(":")
    exponent = float(exponent or 1)
    if kind != "zipf" or not 0 < exponent <= 10:
        raise ValueError(f"routing '{text}'; known: uniform, zipf, zipf:S with an exponent S above 0, at most 10")
    return exponent


def routing_name(exponent):
    return f"zipf:{exponent:g}" if exponent else "uniform"


def draw(exponent, tokens, experts, top_k, seed):
    """ids i32 [T, k], drawn one after the other without replacement by popularity 1 / rank^exponent, ranks a random
    permutation; weights f32 [T, k] whose sum is 1."""
    rng = np.random.default_rng(1000 + seed)
    ln = -exponent * np.log(np.arange(1, experts + 1))
    scores = rng.permutation(ln) + rng.gumbel(size=(tokens, experts))
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    weights = np.exp(np.take_along_axis(scores, ids, 1) / 8)
    return ids.astype(np.int32), (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def load_of(all_ids, experts):
    """Means over routings: experts that get a token, tokens of the one that gets most."""
    rows = [np.bincount(ids.ravel(), minlength=experts) for ids in all_ids]
    return statistics.fmean(int((r > 0).sum()) for r in rows), statistics.fmean(int(r.max()) for r in rows)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Routed experts of a layer: SwiGLU, bf16, without biases."""

    model: str
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    given_experts: int = 0  # as `bench moe --experts`: 0 is all that the model has

    @property
    def expert_bytes(self):
        return 2 * 3 * self.hidden * self.intermediate

    def flops(self, tokens):
        return 2.0 * tokens * self.top_k * 3 * self.hidden * self.intermediate


def shape_of(text, rows):
    """The shape of "NAME", or of "NAME:EXPERTS", a rank's experts alone. rows: of `models --json`, by name."""
    name, _, experts = text.partition(":")
    if name not in rows:
        raise ValueError(f"no model {name}; known: {', '.join(rows)}")
    row = rows[name]
    if experts and not (experts.isdecimal() and row["top_k"] <= int(experts) <= row["num_experts"]):
        raise ValueError(f"model {text}: wanted {row['top_k']} to {row['num_experts']} experts")
    given = int(experts or 0)
    return Shape(name, row["hidden"], row["intermediate"], given or row["num_experts"], row["top_k"], given)


def point_of(shape, ceilings, tokens, routing, all_ids, times_us):
    """One point of the JSON that `moesaic bench moe` prints. times_us: of every repeat, a mean over the routings."""
    touched, largest = load_of(all_ids, shape.experts)
    time, weight_bytes, flops = statistics.median(times_us), touched * shape.expert_bytes, shape.flops(tokens)
    floor = max(weight_bytes / ceilings["read_tb_per_s"], flops / ceilings["matrix_tflop_per_s"]) / 1e6
    return {"tokens": tokens, "routing": routing, "time_us": time,
            "spread": (max(times_us) - min(times_us)) / time, "touched_experts": touched, "largest_load": largest,
            "floor_us": floor, "fraction_of_floor": floor / time, "time_over_floor": time / floor,
            "time_over_prediction": None, "weight_tb_per_s": weight_bytes / time / 1e6,
            "tflop_per_s": flops / time / 1e6}


def fill_predictions(points):
    """Time over floor against the same of uniform routings of as many tokens."""
    uniform = {p["tokens"]: p["time_over_floor"] for p in points if p["routing"] == "uniform"}
    for p in points:
        if p["routing"] != "uniform" and p["tokens"] in uniform:
            p["time_over_prediction"] = p["time_over_floor"] / uniform[p["tokens"]]
