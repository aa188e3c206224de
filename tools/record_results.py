#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what a `make demo` has shown into docs/recorded_results.json: `compiled` for what its bundle holds, `run` for
the kernels of layers that were right on a GPU. Newer results replace older ones of the same row.
Usage: tools/record_results.py --build FOLDER   (FOLDER/moesaic, FOLDER/demo.json, FOLDER/moesaic-kernels.zip)
       [--tests FOLDER --sm 90 --device NAME]   what the device tests said there: FOLDER/test_device_quantize.json, ...,
                                                each by --gtest_output=json:FILE"""

import argparse
import json
import pathlib
import subprocess
import zipfile

RECORDS = pathlib.Path(__file__).resolve().parent.parent / "docs/recorded_results.json"
KEY = ("sm", "recipe", "op", "row", "status")


def explained(moesaic):
    """The cells of `moesaic explain --json`."""
    return json.loads(subprocess.run([moesaic, "explain", "--json"], check=True, capture_output=True, text=True).stdout)


def compiled_results(cells, bundle, date):
    with zipfile.ZipFile(bundle) as archive:
        inside = {name.removesuffix(".cubin") for name in archive.namelist()}
        kernels = json.loads(archive.read("manifest.json"))["entries"]
    compilers = {kernel["identity"]: kernel["compiler"].split(" build-id")[0] for kernel in kernels}
    for cell in cells:
        for candidate in cell["candidates"]:
            identities = candidate.get("identities", [])
            if identities and inside.issuperset(identities):
                by = ", ".join(sorted({compilers[identity] for identity in identities}))
                yield {"sm": cell["sm"], "recipe": cell["recipe"], "op": cell["op"], "row": candidate["row"],
                       "status": "compiled", "date": date, "by": by}


def run_results(cells, demo):
    """The rows that a right layer ran; its weights were prepared by the row that serves `prepare`."""
    ops = {candidate["row"]: cell["op"] for cell in cells for candidate in cell["candidates"]}
    served_by = {(cell["sm"], cell["recipe"], cell["op"]): cell["served_by"] for cell in cells}
    devices = {device["name"]: device for device in demo["doctor"]["devices"]}
    for run in demo["runs"]:
        device = devices.get(run["device"])
        if device is None or not run["passed"]:
            continue
        sm, recipe = device["sm"], run["report"]["recipe"]
        rows = {kernel.split("/")[0] for kernel in run["report"]["kernels"]} | {served_by[sm, recipe, "prepare"]}
        for row in sorted(rows):
            yield {"sm": sm, "recipe": recipe, "op": ops[row], "row": row, "status": "run", "date": demo["date"],
                   "by": device["model"]}


# What is marked when all tests of an executable have passed, and how many tests there must at least be.
PROVES = {
    "test_device_quantize": (50, {"quantize", "dequantize", "swizzle"}),
    "test_device_recipes": (200, {"prepare", "projection", "routing", "gemm", "weighted_sum", "operand"}),
    "test_device": (25, {"activation", "gather"}),
}


def tested_results(cells, folder, sm, device):
    """The rows that serve those ops on that SM, when every test of them passed."""
    for name, (fewest, ops) in PROVES.items():
        path = folder / f"{name}.json"
        if not path.exists():
            print(f"record_results: no {path}: nothing is marked for {', '.join(sorted(ops))}")
            continue
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["tests"] < fewest or report["failures"] or report["errors"]:
            raise SystemExit(f"{path}: {report['tests']} tests, {report['failures']} failures: nothing is marked")
        for cell in cells:
            if cell["sm"] != sm or cell["op"] not in ops:
                continue
            for candidate in cell["candidates"]:
                if candidate.get("identities") and "_cvt" not in candidate["row"]:
                    yield {"sm": sm, "recipe": cell["recipe"], "op": cell["op"], "row": candidate["row"],
                           "status": "run", "date": report["timestamp"][:10], "by": device}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--tests", type=pathlib.Path)
    parser.add_argument("--sm", type=int)
    parser.add_argument("--device")
    options = parser.parse_args()
    folder = options.build
    demo = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    cells = explained(folder / "moesaic")
    rows = {candidate["row"] for cell in cells for candidate in cell["candidates"]}
    records = {tuple(r[k] for k in KEY): r for r in json.loads(RECORDS.read_text(encoding="utf-8")) if r["row"] in rows}
    before = len(records)
    results = [*compiled_results(cells, folder / "moesaic-kernels.zip", demo["date"]), *run_results(cells, demo)]
    if options.tests:
        results += tested_results(cells, options.tests, options.sm, options.device)
    for record in results:
        records[tuple(record[k] for k in KEY)] = record
    lines = ",\n".join(json.dumps(records[key]) for key in sorted(records))
    RECORDS.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")
    print(f"record_results: {len(records)} records, {len(records) - before} new; now `make facts`")


if __name__ == "__main__":
    main()
