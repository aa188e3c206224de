#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Triton layer of bench/peers against plain torch, by Triton's interpreter: needs torch and triton, no GPU.
In fp16: the interpreter's dot takes bf16 for integers.
Usage: peers_triton_test.py bench/peers"""

import os
import sys
import unittest

os.environ["TRITON_INTERPRET"] = "1"  # before triton is loaded
sys.path.insert(0, sys.argv[1])

import torch  # noqa: E402

import routing  # noqa: E402
import triton_moe  # noqa: E402

SHAPE = routing.Shape("small", hidden=80, intermediate=48, experts=6, top_k=2)


class TritonLayer(unittest.TestCase):
    def layer(self, tokens, config, exponent=1.0):
        generator = torch.Generator().manual_seed(tokens)
        random = [torch.randn(size, generator=generator).to(torch.float16) * 0.3 for size in
                  ((tokens, SHAPE.hidden), (SHAPE.experts, 2 * SHAPE.intermediate, SHAPE.hidden),
                   (SHAPE.experts, SHAPE.hidden, SHAPE.intermediate))]
        ids, weights = (torch.from_numpy(a) for a in routing.draw(exponent, tokens, SHAPE.experts, SHAPE.top_k, tokens))
        out = torch.full((tokens, SHAPE.hidden), float("nan"), dtype=torch.float16)
        layer = triton_moe.Layer(SHAPE, tokens, "cpu", config, torch.float16)
        x, w13, w2 = random
        for _ in range(2):  # a second run finds what the first one left
            layer.run(x, ids, weights, w13, w2, out)
        return out, triton_moe.reference(x, ids, weights, w13, w2)

    def test_matches_plain_torch(self):
        for tokens, config in ((1, triton_moe.Config(16, 32, 32, 4, 2)), (13, triton_moe.Config(16, 64, 32, 4, 2, 1)),
                               (40, triton_moe.Config(32, 32, 16, 4, 2, 2)),
                               (600, triton_moe.Config(64, 128, 64, 4, 2))):
            with self.subTest(tokens=tokens):
                triton_moe.check(*self.layer(tokens, config), "triton")

    def test_one_expert_gets_nearly_all(self):
        triton_moe.check(*self.layer(33, triton_moe.Config(16, 32, 32, 4, 2), exponent=8.0), "triton")

    def test_what_is_wrong_is_found(self):
        out, want = self.layer(5, triton_moe.Config(16, 32, 32, 4, 2))
        for wrong in (out * 1.05, torch.cat([out[1:], out[:1]]), out * float("nan")):
            with self.assertRaisesRegex(AssertionError, "triton: a token's result"):
                triton_moe.check(wrong, want, "triton")

    def test_configs_fit_the_rows_of_an_expert(self):
        for rows in (0.1, 1, 30, 100, 5000):
            self.assertTrue(triton_moe.configs_for(rows))
        self.assertEqual({c.rows for c in triton_moe.configs_for(1)}, {16})
        self.assertEqual({c.rows for c in triton_moe.configs_for(1000)}, {64, 128})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
