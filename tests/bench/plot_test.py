#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/plot.py on what `moesaic bench` printed once: valid XML, a line for every recipe and one for its floor, inside
its panel; and what it refuses.
Usage: plot_test.py bench/plot.py RESULTS.json"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ET

PLOT, RESULTS = sys.argv[1:3]
SVG = "{http://www.w3.org/2000/svg}"
LAYER = {"model": "m", "recipe": "bf16", "experts": 0, "device": "cpu",
         "points": [{"tokens": 1, "time_us": 10.0, "floor_us": 5.0}, {"tokens": 100, "time_us": 1000.0, "floor_us": 5.0}]}


class Plot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_plot(self, text):
        path = self.folder / "results.json"
        path.write_text(text, encoding="utf-8")
        picture = self.folder / "plots" / "x.svg"
        done = subprocess.run([sys.executable, PLOT, path, "-o", picture], capture_output=True, text=True)
        return done, picture

    def drawn(self, text):
        done, picture = self.run_plot(text)
        self.assertEqual(done.returncode, 0, done.stderr)
        return ET.parse(picture).getroot()

    def refused(self, text, word):
        done, picture = self.run_plot(text)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^plot: error: [^\n]*" + word)
        self.assertEqual(len(done.stderr.splitlines()), 1)
        self.assertFalse(picture.exists())

    @staticmethod
    def of_class(parent, name):
        return [e for e in parent.iter() if e.get("class") == name]

    @staticmethod
    def coordinates(polyline):
        return [tuple(map(float, pair.split(","))) for pair in polyline.get("points").split()]

    def test_recorded_results(self):
        text = pathlib.Path(RESULTS).read_text(encoding="utf-8")
        panels = self.of_class(self.drawn(text), "panel")
        self.assertEqual([p.find(f"{SVG}text").text for p in panels],
                         ["qwen3-30b-a3b, 8 experts on cpu, 2 threads", "bf16 [rows, 1024] on cpu"])
        names = [[s.find(f"{SVG}title").text for s in self.of_class(p, "series")] for p in panels]
        self.assertEqual(names, [["bf16", "bf16_mxfp4"], ["nvfp4", "fp8_row"]])
        for panel, points in zip(panels, (3, 2)):
            frame = panel.find(f"{SVG}rect")
            left, top = float(frame.get("x")), float(frame.get("y"))
            right, bottom = left + float(frame.get("width")), top + float(frame.get("height"))
            for kind in ("time", "floor"):
                lines = self.of_class(panel, kind)
                self.assertEqual(len(lines), 2)
                for line in lines:
                    self.assertEqual(len(self.coordinates(line)), points)
                    for x, y in self.coordinates(line):
                        self.assertTrue(left <= x <= right and top <= y <= bottom, (x, y))

    def test_both_axes_are_logarithmic(self):
        layer = json.loads(json.dumps(LAYER))
        layer["points"].insert(1, {"tokens": 10, "time_us": 100.0, "floor_us": 5.0})
        svg = self.drawn(json.dumps(layer))
        (x0, y0), (x1, y1), (x2, y2) = self.coordinates(self.of_class(svg, "time")[0])
        self.assertAlmostEqual(x1 - x0, x2 - x1, delta=0.2)
        self.assertAlmostEqual(y0 - y1, y1 - y2, delta=0.2)
        self.assertGreater(x1, x0)
        self.assertLess(y1, y0, "more time is higher")
        floors = self.coordinates(self.of_class(svg, "floor")[0])
        self.assertEqual({y for _, y in floors}, {floors[0][1]})
        self.assertGreater(floors[0][1], y0)

    def test_a_list_and_results_without_floor(self):
        routing = {"device": "cpu", "points": [{"tokens": 1, "time_us": 2.0}, {"tokens": 8, "time_us": 3.0}]}
        svg = self.drawn(json.dumps([LAYER, routing]))
        self.assertEqual(len(self.of_class(svg, "panel")), 2)
        self.assertEqual(len(self.of_class(svg, "time")), 2)
        self.assertEqual(len(self.of_class(svg, "floor")), 1)

    def test_routing_and_products_say_their_shapes(self):
        routing = {"method": "topk", "experts": 64, "top_k": 6, "device": "cpu", "points": LAYER["points"]}
        product = {"recipe": "nvfp4", "groups": 8, "n": 32, "k": 64, "device": "cpu",
                   "points": [{"rows": 4, "time_us": 2.0, "floor_us": 1.0}, {"rows": 8, "time_us": 3.0, "floor_us": 1.0}]}
        panels = self.of_class(self.drawn(json.dumps([routing, product])), "panel")
        self.assertEqual([p.find(f"{SVG}text").text for p in panels],
                         ["routing, 64 experts, top 6 on cpu", "8 x W [32, 64] on cpu"])
        names = [[s.find(f"{SVG}title").text for s in self.of_class(p, "series")] for p in panels]
        self.assertEqual(names, [["topk"], ["nvfp4"]])
        self.assertEqual([len(self.of_class(p, "floor")) for p in panels], [1, 1])

    def test_routings_have_lines_of_their_own(self):
        layer = json.loads(json.dumps(LAYER))
        layer["points"] = [p | {"routing": r} for p in layer["points"] for r in ("uniform", "zipf:1")]
        panels = self.of_class(self.drawn(json.dumps(layer)), "panel")
        names = [[s.find(f"{SVG}title").text for s in self.of_class(p, "series")] for p in panels]
        self.assertEqual(names, [["bf16", "bf16 zipf:1"]])

    def test_names_are_escaped(self):
        svg = self.drawn(json.dumps(LAYER | {"device": "<a> & b"}))
        self.assertIn("m on <a> & b", [t.text for t in svg.iter(f"{SVG}text")])

    def test_refusals(self):
        self.refused("", "no results")
        self.refused('{"points": [', "not JSON")
        self.refused("[1]", "a result without points")
        self.refused(json.dumps({"model": "m"}), "a result without points")
        self.refused(json.dumps({"points": [{"tokens": 1}], "device": "cpu"}), "without 'time_us'")
        self.refused(json.dumps([LAYER, LAYER]), "bf16 has two times for 1")
        zero = LAYER | {"points": [{"tokens": 0, "time_us": 1.0}]}
        self.refused(json.dumps(zero), "a log axis")
        self.refused(json.dumps([LAYER | {"recipe": f"r{i}"} for i in range(17)]), "17 recipes")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
