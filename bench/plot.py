#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what `moesaic bench ... --json` printed as SVG: time against the number of tokens (products and quantisers:
rows), both on log axes; a panel for each shape and device, a colour for each recipe (format), and its floor
(quantisers: a copy of as many bytes) as a dashed line of the same colour.
Usage: bench/plot.py results.json [more.json ...] -o docs/plots/x.svg
A file holds one result, a list of them, or several one behind another, as `>>` leaves them."""

import argparse
import collections
import itertools
import json
import math
import pathlib
import sys
import xml.etree.ElementTree as ET

# x: tokens or rows. floor: None where it is not known.
Point = collections.namedtuple("Point", "x time floor")
Style = collections.namedtuple("Style", "colour fill")  # of a line, and of its marks

# Okabe and Ito's colours: told apart by every kind of eye. The second time round, marks are hollow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#f0e442")
STYLES = [Style(colour, colour) for colour in COLOURS] + [Style(colour, "white") for colour in COLOURS]
PANEL_WIDTH, PANEL_HEIGHT, PANELS_A_ROW = 560, 340, 2
LEFT, TOP, RIGHT, BOTTOM = 70, 44, 150, 50  # margins of a panel: labels of the y axis, title, legend, labels of x
TICK_APART = 34  # pixels; a label of the x axis takes that much


class BadInput(Exception):
    pass


def documents(text, name):
    """The JSON objects of a text: one, a list, or several one behind another."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise BadInput(f"{name}: not JSON: {error}") from error
        yield from value if isinstance(value, list) else [value]


def layer_series(result):
    """Of `bench moe` and `bench route`: (panel, x axis, series, points) for every kind of routing."""
    title = result.get("model", "routing")
    if result.get("experts"):
        title += f", {result['experts']} experts"
    if result.get("top_k"):
        title += f", top {result['top_k']}"
    name = result.get("recipe") or result.get("method") or "route"
    name = " ".join(filter(None, [result.get("peer"), name]))
    by_routing = {}
    for p in result["points"]:
        routing = p.get("routing") or result.get("routing") or "uniform"
        by_routing.setdefault(routing, []).append(Point(p["tokens"], p["time_us"], p.get("floor_us") or None))
    for routing, points in by_routing.items():
        yield f"{title} on {result['device']}", "tokens", name + ("" if routing == "uniform" else f" {routing}"), points


def product_series(result):
    """Of `bench gemm`: (panel, x axis, series, points), once."""
    title = f"{result['groups']} x W [{result['n']}, {result['k']}] on {result['device']}"
    points = [Point(p["rows"], p["time_us"], p["floor_us"]) for p in result["points"]]
    yield title, "rows", " ".join(filter(None, [result.get("peer"), result["recipe"]])), points


def quantizer_series(result):
    """Of `bench quantize`: (panel, x axis, series, points) for every format."""
    activation = f" after {result['activation']}" if result["activation"] else ""
    title = f"{result['type']} [rows, {result['cols']}]{activation} on {result['device']}"
    for p in result["points"]:
        name = p["format"] + ("" if p["layout"] == "linear" else f" {p['layout']}")
        yield title, "rows", name, [Point(result["rows"], p["time_us"], p["time_us"] * p["fraction_of_copy"])]


def series_of(result):
    first = result["points"][0]
    if "format" in first:
        return quantizer_series(result)
    return product_series(result) if "rows" in first else layer_series(result)


def collect(paths):
    """{(panel, x axis): {series: points by x}}, in the order of the files."""
    panels = {}
    for path in paths:
        found = False
        for result in documents(path.read_text(encoding="utf-8"), path):
            found = True
            if not isinstance(result, dict) or not result.get("points"):
                raise BadInput(f"{path}: a result without points; wanted what `moesaic bench ... --json` prints")
            try:
                for title, axis, name, points in series_of(result):
                    panels.setdefault((title, axis), {}).setdefault(name, []).extend(points)
            except KeyError as error:
                raise BadInput(f"{path}: a result without {error}") from error
        if not found:
            raise BadInput(f"{path}: no results")
    for (title, _), series in panels.items():
        for name, points in series.items():
            points.sort(key=lambda point: point.x)
            check_points(title, name, points)
    return panels


def check_points(title, name, points):
    for a, b in itertools.pairwise(points):
        if a.x == b.x:
            raise BadInput(f"{title}: {name} has two times for {a.x}; wanted one file without the older measurement")
    for point in points:
        if not all(math.isfinite(v) and v > 0 for v in point if v is not None):
            raise BadInput(f"{title}: {name} has {point}; a log axis wants numbers above 0")


def time_text(microseconds):
    for unit, size in (("s", 1e6), ("ms", 1e3), ("\u00b5s", 1.0)):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds:g} \u00b5s"


def time_ticks(low, high):
    """Powers of ten within [low, high]; with 2 and 5 times these where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 4 else (1, 2, 5)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


class LogAxis:
    """From [low, high] to pixels."""

    def __init__(self, low, high, first, last):
        if low == high:  # one point stands in the middle
            low, high = low / 2, high * 2
        self.low, self.high, self.first, self.last = low, high, first, last

    def __call__(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + share * (self.last - self.first)


def add(parent, tag, text=None, **attributes):
    """An element; numbers to a tenth of a pixel, `_` in names of attributes is `-`."""
    to_text = {k.rstrip("_").replace("_", "-"): f"{v:.1f}" if isinstance(v, float) else str(v)
               for k, v in attributes.items()}
    element = ET.SubElement(parent, tag, to_text)
    element.text = text
    return element


def draw_line(group, kind, points, x, y, **style):
    add(group, "polyline", class_=kind, points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points), fill="none",
        **style)


def draw_axes(group, axis, x, y, values):
    """Grid and labels; x has a label at every value that was measured, where there is room."""
    taken = -math.inf
    for value in values:
        add(group, "line", x1=x(value), x2=x(value), y1=y.first, y2=y.last, stroke="#eeeeee")
        if x(value) - taken >= TICK_APART:
            taken = x(value)
            add(group, "text", f"{value}", x=taken, y=y.first + 16.0, text_anchor="middle")
    for tick in time_ticks(y.low, y.high):
        add(group, "line", x1=x.first, x2=x.last, y1=y(tick), y2=y(tick), stroke="#dddddd")
        add(group, "text", time_text(tick), x=x.first - 6.0, y=y(tick) + 4.0, text_anchor="end")
    add(group, "rect", x=x.first, y=y.last, width=x.last - x.first, height=y.first - y.last, fill="none",
        stroke="#888888")
    add(group, "text", axis, x=(x.first + x.last) / 2, y=y.first + 36.0, text_anchor="middle")


def draw_mark(group, style, x, y):
    return add(group, "circle", cx=x, cy=y, r=3, fill=style.fill, stroke=style.colour)


def draw_series(group, name, points, style, x, y):
    line = add(group, "g", class_="series")
    add(line, "title", name)
    draw_line(line, "time", [(p.x, p.time) for p in points], x, y, stroke=style.colour, stroke_width=2)
    floors = [(p.x, p.floor) for p in points if p.floor is not None]
    if floors:
        draw_line(line, "floor", floors, x, y, stroke=style.colour, stroke_width=1, stroke_dasharray="5 4")
    for p in points:
        add(draw_mark(line, style, x(p.x), y(p.time)), "title", f"{name}, {p.x}: {p.time:.4g} \u00b5s"
            + (f", floor {p.floor:.4g} \u00b5s" if p.floor is not None else ""))


def draw_legend(group, names, styles, floor_name, x, y):
    for row, name in enumerate(names):
        at = y + 18.0 * row
        add(group, "line", x1=x, x2=x + 20.0, y1=at, y2=at, stroke=styles[name].colour, stroke_width=2)
        draw_mark(group, styles[name], x + 10.0, at)
        add(group, "text", name, x=x + 26.0, y=at + 4.0)
    if floor_name:
        at = y + 18.0 * len(names)
        add(group, "line", x1=x, x2=x + 20.0, y1=at, y2=at, stroke="#666666", stroke_dasharray="5 4")
        add(group, "text", floor_name, x=x + 26.0, y=at + 4.0)


def draw_panel(svg, title, axis, series, styles, left, top):
    group = add(svg, "g", class_="panel", transform=f"translate({left} {top})")
    add(group, "text", title, x=LEFT, y=TOP - 14, font_weight="bold")
    points = list(itertools.chain(*series.values()))
    times = [t for p in points for t in (p.time, p.floor) if t is not None]
    values = sorted({p.x for p in points})
    x = LogAxis(values[0], values[-1], LEFT + 14.0, PANEL_WIDTH - RIGHT - 14.0)
    y = LogAxis(min(times) / 1.3, max(times) * 1.3, PANEL_HEIGHT - BOTTOM + 0.0, TOP + 0.0)
    draw_axes(group, axis, x, y, values)
    for name, line in series.items():
        draw_series(group, name, line, styles[name], x, y)
    floor_name = "a copy" if axis == "rows" else "floor"
    has_floor = any(p.floor is not None for p in points)
    draw_legend(group, series, styles, floor_name if has_floor else None, x.last + 12.0, TOP + 8.0)


def draw(panels):
    """The picture as text. A recipe looks the same in all panels."""
    names = list(dict.fromkeys(itertools.chain(*panels.values())))
    if len(names) > len(STYLES):
        raise BadInput(f"{len(names)} recipes or formats: {', '.join(names)}; wanted at most {len(STYLES)}, as many as "
                       "there are lines that one can tell apart")
    styles = dict(zip(names, STYLES))
    across = min(len(panels), PANELS_A_ROW)
    width, height = across * PANEL_WIDTH, math.ceil(len(panels) / across) * PANEL_HEIGHT
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}",
                             "width": str(width), "height": str(height), "font-family": "sans-serif",
                             "font-size": "12"})
    add(svg, "rect", width=width, height=height, fill="white")
    for i, ((title, axis), series) in enumerate(panels.items()):
        draw_panel(svg, title, axis, series, styles, i % across * PANEL_WIDTH, i // across * PANEL_HEIGHT)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", type=pathlib.Path, help="what `moesaic bench ... --json` printed")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="the SVG file; its folder is made")
    args = parser.parse_args()
    try:
        picture = draw(collect(args.results))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(picture, encoding="utf-8")
    except (BadInput, OSError) as error:
        sys.exit(f"plot: error: {error}")


if __name__ == "__main__":
    main()
