#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes what a `make demo` has shown into docs/recorded_results.json: `compiled` for what its bundle holds, `run` for
the kernels of layers that were right on a GPU. Newer results replace older ones of the same row.
Usage: tools/record_results.py --build FOLDER   (FOLDER/moesaic, FOLDER/demo.json, FOLDER/moesaic-kernels.zip)
       [--quantizer-tests FILE --sm 90 --device NAME]   what test_device_quantize --gtest_output=json:FILE said there"""

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


def quantizer_results(cells, tests, sm, device):
    """The rows that serve quantisers on that SM, when every test of them passed."""
    report = json.loads(tests.read_text(encoding="utf-8"))
    if report["tests"] < 50 or report["failures"] or report["errors"]:
        raise SystemExit(f"{tests}: {report['tests']} tests, {report['failures']} failures: nothing is marked")
    for cell in cells:
        if cell["sm"] == sm and cell["op"] in ("quantize", "dequantize", "swizzle"):
            for candidate in cell["candidates"]:
                if candidate.get("identities") and "_cvt" not in candidate["row"]:
                    yield {"sm": sm, "recipe": cell["recipe"], "op": cell["op"], "row": candidate["row"],
                           "status": "run", "date": report["timestamp"][:10], "by": device}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--quantizer-tests", type=pathlib.Path)
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
    if options.quantizer_tests:
        results += quantizer_results(cells, options.quantizer_tests, options.sm, options.device)
    for record in results:
        records[tuple(record[k] for k in KEY)] = record
    lines = ",\n".join(json.dumps(records[key]) for key in sorted(records))
    RECORDS.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")
    print(f"record_results: {len(records)} records, {len(records) - before} new; now `make readme`")


if __name__ == "__main__":
    main()
