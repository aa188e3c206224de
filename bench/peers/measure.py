#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moesaic beside its peers in one process, on one GPU with torch: whole layers of routed experts (Moesaic by its Python
package; Triton: triton_moe.py) from x, ids and weights to y, the same with routing (Moesaic, and triton_kernels where it
is on PYTHONPATH: openai_moe.py), both grouped products of a layer alone (torch._grouped_mm), and dense products
(torch.matmul). Same shapes, tokens and routings; CUDA graphs, weights rotated
beyond 3x L2, peers in turns. Results are checked before they are timed.
Usage: PYTHONPATH=build/python bench/peers/measure.py -o results.json [--models ...] [--tokens ...] [--routing ...]
The file is a list of what `moesaic bench moe --json` and `bench gemm --json` print, each with a `peer`;
bench/plot.py draws it."""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

import moesaic
import torch

import routing
import triton_moe

DEVICE = "cuda:0"
TOKENS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
REPEAT_US, MEASURED_US, WARM_UPS, LEAST_REPEATS = 10_000, 500_000, 2, 9  # of one repeat, and of all
L2_MULTIPLE = 3
SCOPE = "routed experts, from x, ids and weights to y"
ROUTED = "routed experts, from x and router logits to y"
ALONE = "both grouped products alone: rows gathered and sorted before, no activation, no weighted sum"


class Timed:
    """Graphs that are launched one after the other; `runs` of the work in all."""

    def __init__(self, calls):
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        with torch.cuda.stream(stream):
            for call in calls[:1]:
                call()  # loads and compiles, which a capture forbids
        torch.cuda.synchronize()
        self.graphs = []
        for call in calls:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                call()
            self.graphs.append(graph)
        self.calls = calls  # graphs do not keep the tensors that they read and write
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.rounds, self.times = 1, []
        self.repeat_us()  # the first replay of a graph brings it to the GPU
        self.rounds = max(1, min(1000, math.ceil(REPEAT_US / max(self.repeat_us(), 1.0))))

    def repeat_us(self):
        self.begin.record()
        for _ in range(self.rounds):
            for graph in self.graphs:
                graph.replay()
        self.end.record()
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) * 1000

    def spent(self):
        return sum(self.times)

    def run_us(self):
        """Microseconds of one run, of every repeat."""
        return [us / self.rounds / len(self.graphs) for us in self.times]


def in_turns(timed):
    """Repeats each of them in turns, so that all meet the same clocks, until each has taken MEASURED_US."""
    for _ in range(WARM_UPS):
        for one in timed:
            one.repeat_us()
    while any(one.spent() < MEASURED_US or len(one.times) < LEAST_REPEATS for one in timed):
        for one in timed:
            one.times.append(one.repeat_us())


def numbers(*size):
    return torch.randn(size, dtype=torch.bfloat16, device=DEVICE).mul_(0.02)


def sets_of(touched_bytes):
    """Copies of weights that runs go through: a divisor of the number of routings."""
    count, l2 = 1, torch.cuda.get_device_properties(0).L2_cache_size
    while count < routing.ROUTINGS and count * touched_bytes < L2_MULTIPLE * l2:
        count *= 2
    return count


def ceilings():
    """Rates of this GPU, measured now, in the words of `moesaic bench`."""
    properties = torch.cuda.get_device_properties(0)
    size = 1 << 31
    source, target = (torch.zeros(size // 4, dtype=torch.int32, device=DEVICE) for _ in range(2))
    seen = torch.zeros(8 * properties.multi_processor_count, dtype=torch.int32, device=DEVICE)
    read = Timed([lambda: triton_moe.read_all[(seen.numel(),)](source, seen, size // 4 // 4096, BLOCK=4096,
                                                               num_warps=8)])
    copy = Timed([lambda: target.copy_(source)])
    in_turns([read, copy])
    matrix = {n: product_times(n, [numbers(n, n)], [numbers(n, n)]) for n in (4096, 8192)}
    in_turns(list(matrix.values()))
    rates = {n: 2 * n**3 / statistics.median(one.run_us()) / 1e6 for n, one in matrix.items()}
    best = max(rates, key=rates.get)
    return {"device": f"{properties.name} (cuda:0, SM{properties.major}.{properties.minor}, "
                      f"{properties.multi_processor_count} SMs)",
            "read_tb_per_s": size / statistics.median(read.run_us()) / 1e6,
            "copy_tb_per_s": 2 * size / statistics.median(copy.run_us()) / 1e6,
            "matrix_tflop_per_s": rates[best], "matrix_measured": True,
            "matrix_source": f"torch.matmul {torch.__version__} at {best}^3, measured now"}


def product_times(n, xs, ws):
    """torch.matmul of squares: x [n, n] times W [n, n] transposed."""
    out = torch.empty(n, n, dtype=torch.bfloat16, device=DEVICE)
    return Timed([lambda x=x, w=w: torch.matmul(x, w.T, out=out) for x, w in zip(xs, ws)])


def measure_products(sizes, found):
    """Dense products: torch.matmul and Moesaic's Gemm, in the schema of `bench gemm`."""
    for n in sizes:
        sets = max(2, 1 + L2_MULTIPLE * torch.cuda.get_device_properties(0).L2_cache_size // (6 * n * n))
        xs, ws = ([numbers(n, n) for _ in range(sets)] for _ in range(2))
        gemms = [moesaic.Gemm(w, max_rows=n) for w in ws]
        out = torch.empty(n, n, dtype=torch.bfloat16, device=DEVICE)
        gemms[0](xs[0], out=out)
        triton_moe.check(out, xs[0].float() @ ws[0].float().T, f"moesaic {n}^3")
        timed = {"moesaic": Timed([lambda x=x, g=g: g(x, out=out) for x, g in zip(xs, gemms)]),
                 "torch.matmul": product_times(n, xs, ws)}
        in_turns(list(timed.values()))
        for peer, one in timed.items():
            times = one.run_us()
            us, flops = statistics.median(times), 2.0 * n**3
            floor = flops / found["matrix_tflop_per_s"] / 1e6
            point = {"rows": n, "time_us": us, "spread": (max(times) - min(times)) / us, "touched_groups": 1,
                     "weight_bytes": 2.0 * n * n, "activation_bytes": 4.0 * n * n, "floor_us": floor,
                     "fraction_of_floor": floor / us, "tb_per_s": 6.0 * n * n / us / 1e6,
                     "tflop_per_s": flops / us / 1e6, "kernels": [peer]}
            yield {"peer": peer, "recipe": "bf16", "n": n, "k": n, "groups": 1, **found, "points": [point]}


class Weights:
    """Copies of a layer's weights for all peers."""

    def __init__(self, shape, count, max_tokens):
        self.shape, self.count = shape, count
        self.w13 = [numbers(shape.experts, 2 * shape.intermediate, shape.hidden) for _ in range(count)]
        self.w2 = [numbers(shape.experts, shape.hidden, shape.intermediate) for _ in range(count)]
        config = moesaic.MoeConfig(hidden=shape.hidden, intermediate=shape.intermediate, num_experts=shape.experts,
                                   top_k=shape.top_k, router=False, max_tokens=max_tokens, device=DEVICE)
        self.layers = [moesaic.FusedMoe(config, moesaic.Weights(w13=w13, w2=w2))
                       for w13, w2 in zip(self.w13, self.w2)]
        self.others = {}

    def of_peer(self, peer, make):
        """A peer's own form of the weights, made once."""
        if peer not in self.others:
            self.others[peer] = make()
        return self.others[peer]


class Run:
    """One size and kind of routing: inputs, and each peer's calls, one a routing."""

    def __init__(self, weights, tokens, exponent):
        self.weights, self.tokens, shape = weights, tokens, weights.shape
        drawn = [routing.draw(exponent, tokens, shape.experts, shape.top_k, seed) for seed in range(routing.ROUTINGS)]
        self.all_ids = [ids for ids, _ in drawn]
        self.ids, self.slot_weights = ([torch.from_numpy(a).to(DEVICE) for a in arrays] for arrays in zip(*drawn))
        self.x = torch.randn(tokens, shape.hidden, device=DEVICE).to(torch.bfloat16)
        self.out = torch.empty_like(self.x)

    def logits(self):
        """f32 [T, E] of every routing: of those that are not chosen far below."""
        def one(ids, weights):
            return torch.full((self.tokens, self.weights.shape.experts), -30.0, device=DEVICE).scatter_(
                1, ids.long(), weights.log())
        return list(map(one, self.ids, self.slot_weights))

    def calls(self, call):
        """`call(seed, set of weights)` for every routing."""
        return [lambda seed=seed: call(seed, seed % self.weights.count) for seed in range(routing.ROUTINGS)]

    def checked(self, name, call):
        """The call of routing 0, held against plain torch."""
        want = triton_moe.reference(self.x, self.ids[0], self.slot_weights[0], self.weights.w13[0], self.weights.w2[0])
        self.out.fill_(float("nan"))
        call(0, 0)
        triton_moe.check(self.out, want, f"{name}, {self.tokens} tokens")
        return call

    def moesaic(self):
        def call(seed, which):
            self.weights.layers[which](self.x, topk_ids=self.ids[seed], topk_weights=self.slot_weights[seed],
                                       out=self.out)
        return self.checked("moesaic", call), self.weights.layers[0].kernels(self.tokens)

    def moesaic_routed(self):
        logits = self.logits()

        def call(seed, which):
            self.weights.layers[which](self.x, router_logits=logits[seed], out=self.out)
        return self.checked("moesaic with routing", call), self.weights.layers[0].kernels(self.tokens)

    def triton_kernels(self):
        import openai_moe  # needs triton_kernels
        logits, weights = self.logits(), self.weights
        pairs = weights.of_peer("triton_kernels", lambda: [openai_moe.neighbours(w13) for w13 in weights.w13])

        def call(seed, which):
            openai_moe.run(self.x, logits[seed], weights.shape.top_k, pairs[which], weights.w2[which], self.out)
        return self.checked("triton_kernels", call), ["triton_kernels.matmul_ogs"]

    def triton(self):
        """By the fastest of the configurations that fit the load."""
        shape, best = self.weights.shape, None
        touched, _ = routing.load_of(self.all_ids[:1], shape.experts)
        for config in triton_moe.configs_for(self.tokens * shape.top_k / touched):
            layer = triton_moe.Layer(shape, self.tokens, DEVICE, config)

            def call(seed, which, layer=layer):
                layer.run(self.x, self.ids[seed], self.slot_weights[seed], self.weights.w13[which],
                          self.weights.w2[which], self.out)
            self.checked(f"triton {config}", call)
            trial = Timed(self.calls(call)[:4])
            us = min(trial.repeat_us() / trial.rounds for _ in range(3))
            if best is None or us < best[0]:
                best = us, call, config
        return best[1], [str(best[2])]

    def grouped_mm(self):
        shape, rows = self.weights.shape, self.tokens * self.weights.shape.top_k
        x, h = numbers(rows, shape.hidden), numbers(rows, shape.intermediate)
        ends = [torch.bincount(ids.flatten().long(), minlength=shape.experts).cumsum(0).to(torch.int32)
                for ids in self.ids]

        def call(seed, which):
            torch._grouped_mm(x, self.weights.w13[which].transpose(1, 2), offs=ends[seed])
            torch._grouped_mm(h, self.weights.w2[which].transpose(1, 2), offs=ends[seed])
        return call, ["torch._grouped_mm"]


PEERS = {"moesaic": (Run.moesaic, SCOPE), "triton": (Run.triton, SCOPE), "moesaic_routed": (Run.moesaic_routed, ROUTED),
         "triton_kernels": (Run.triton_kernels, ROUTED), "grouped_mm": (Run.grouped_mm, ALONE)}


def measure_layer(shape, peers, tokens, exponents, found):
    """One result for each peer, in the schema of `bench moe`."""
    def touched(exponent):
        ids = [routing.draw(exponent, min(tokens), shape.experts, shape.top_k, s)[0] for s in range(routing.ROUTINGS)]
        return routing.load_of(ids, shape.experts)[0]
    weights = Weights(shape, sets_of(min(map(touched, exponents)) * shape.expert_bytes), max(tokens))
    results = {peer: {"model": shape.model, "peer": peer, "recipe": "bf16", "scope": PEERS[peer][1],
                      "experts": shape.given_experts, "routings": routing.ROUTINGS, "why_not": [], **found, "points": []} for peer in peers}
    for count in tokens:
        for exponent in exponents:
            run, timed, kernels = Run(weights, count, exponent), {}, {}
            for peer in peers:
                try:
                    call, kernels[peer] = PEERS[peer][0](run)
                    timed[peer] = Timed(run.calls(call))
                except Exception as error:  # a torch without it, no capture, wrong results: the others go on
                    results[peer]["why_not"].append(f"{count} tokens: {type(error).__name__}: {error}")
                    print(f"{shape.model} {peer} T={count}: not measured: {error}", file=sys.stderr, flush=True)
            in_turns(list(timed.values()))
            for peer, one in timed.items():
                point = routing.point_of(shape, found, count, routing.routing_name(exponent), run.all_ids, one.run_us())
                results[peer]["points"].append(point | {"kernels": kernels[peer]})
                print(f"{shape.model} {peer} {point['routing']} T={count}: {point['time_us']:.1f} us, "
                      f"{100 * point['fraction_of_floor']:.0f}% of floor", file=sys.stderr, flush=True)
    for result in results.values():
        routing.fill_predictions(result["points"])
        if result["points"]:
            yield result


def shapes_of(names):
    """Published shapes, which the command line lists, NAME:EXPERTS with the first experts alone (a rank's); the experts
    are taken as SwiGLU without biases for all peers."""
    command = [sys.executable, "-m", "moesaic", "models", "--json"]
    rows = {r["name"]: r for r in json.loads(subprocess.run(command, check=True, capture_output=True).stdout)}
    try:
        return [routing.shape_of(name, rows) for name in names]
    except ValueError as error:
        sys.exit(f"measure: error: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    split = {"type": lambda text: text.split(",")}
    parser.add_argument("--models", default=["mixtral-8x7b", "qwen3-30b-a3b"], **split)
    parser.add_argument("--tokens", default=TOKENS, type=lambda text: [int(t) for t in text.split(",")])
    parser.add_argument("--routing", default=["uniform", "zipf:1"], **split)
    parser.add_argument("--peers", default=list(PEERS), help=", ".join(PEERS), **split)
    parser.add_argument("--products", default=[4096, 8192], type=lambda text: [int(n) for n in text.split(",") if n],
                        help="sizes of dense products; empty: none")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    shapes, exponents = shapes_of(args.models), [routing.parse_routing(name) for name in args.routing]
    if unknown := set(args.peers) - PEERS.keys():
        parser.error(f"no peers {', '.join(unknown)}; known: {', '.join(PEERS)}")
    if not torch.cuda.is_available():
        sys.exit("measure: error: torch finds no GPU")
    found = ceilings()
    results = list(measure_products(args.products, found))
    for shape in shapes:
        results += measure_layer(shape, args.peers, args.tokens, exponents, found)
        args.output.write_text(json.dumps(results, indent=1), encoding="utf-8")  # what is there, if a later one fails


if __name__ == "__main__":
    main()
