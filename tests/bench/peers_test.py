#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Routings, floors and JSON of bench/peers; numpy alone. Usage: peers_test.py bench/peers bench/plot.py"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, sys.argv[1])
import routing  # noqa: E402

PLOT = sys.argv[2]
CEILINGS = {"read_tb_per_s": 4.0, "copy_tb_per_s": 3.0, "matrix_tflop_per_s": 800.0}


class Routing(unittest.TestCase):
    def test_names(self):
        for name in ("uniform", "zipf:1", "zipf:0.75"):
            self.assertEqual(routing.routing_name(routing.parse_routing(name)), name)
        self.assertEqual(routing.parse_routing("zipf"), 1)
        for name in ("", "zipf:0", "zipf:-1", "skewed:1"):
            with self.assertRaises(ValueError):
                routing.parse_routing(name)

    def test_ids_differ_and_weights_add_up(self):
        for exponent in (0.0, 1.0):
            ids, weights = routing.draw(exponent, 50, 16, 4, 3)
            self.assertEqual((ids.dtype, weights.dtype, ids.shape), (np.int32, np.float32, (50, 4)))
            self.assertTrue(all(len(set(row)) == 4 for row in ids.tolist()))
            np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
            np.testing.assert_array_equal(ids, routing.draw(exponent, 50, 16, 4, 3)[0])

    def test_popularity_is_zipfs(self):
        ids, _ = routing.draw(1.0, 20000, 5, 1, 0)
        shares = np.sort(np.bincount(ids.ravel(), minlength=5))[::-1] / 20000
        want = 1 / np.arange(1, 6) / (1 / np.arange(1, 6)).sum()
        np.testing.assert_allclose(shares, want, atol=0.02)

    def test_loads(self):
        self.assertEqual(routing.load_of([np.array([[0, 1], [0, 2]]), np.array([[3, 3], [3, 1]])], 4), (2.5, 2.5))

    def test_shapes_of_models_and_ranks(self):
        rows = {"m": {"hidden": 64, "intermediate": 32, "num_experts": 16, "top_k": 4}}
        self.assertEqual(routing.shape_of("m", rows), routing.Shape("m", 64, 32, 16, 4))
        rank = routing.shape_of("m:8", rows)
        self.assertEqual((rank.model, rank.experts, rank.given_experts), ("m", 8, 8))
        for name in ("n", "m:3", "m:17", "m:x", "m:0"):
            with self.assertRaises(ValueError):
                routing.shape_of(name, rows)


class Report(unittest.TestCase):
    def points(self):
        shape = routing.Shape("m", 64, 32, 4, 2)
        points = []
        for exponent, times in ((0.0, [12.0, 10.0, 11.0]), (1.0, [20.0, 20.0, 22.0])):
            ids = [routing.draw(exponent, 3, 4, 2, seed)[0] for seed in range(routing.ROUTINGS)]
            points.append(routing.point_of(shape, CEILINGS, 3, routing.routing_name(exponent), ids, times))
        routing.fill_predictions(points)
        return points

    def test_points(self):
        uniform, zipf = self.points()
        self.assertEqual(uniform["time_us"], 11)
        self.assertAlmostEqual(uniform["spread"], 2 / 11)
        memory = uniform["touched_experts"] * 3 * 64 * 32 * 2 / 4.0e6
        self.assertAlmostEqual(uniform["floor_us"], max(memory, 2 * 3 * 2 * 3 * 64 * 32 / 800e6))
        self.assertIsNone(uniform["time_over_prediction"])
        self.assertAlmostEqual(zipf["time_over_prediction"], zipf["time_over_floor"] / uniform["time_over_floor"])

    def test_peers_can_be_drawn(self):
        result = {"model": "m", "recipe": "bf16", "experts": 0, "device": "d", "points": self.points()[:1]}
        with tempfile.TemporaryDirectory() as folder:
            path, picture = pathlib.Path(folder) / "r.json", pathlib.Path(folder) / "x.svg"
            path.write_text(json.dumps([result, result | {"peer": "triton"}]), encoding="utf-8")
            subprocess.run([sys.executable, PLOT, path, "-o", picture], check=True)
            self.assertIn("triton bf16", picture.read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
