#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels of every architecture into a bundle, runs the test checkpoints against recorded outputs on the
CPU and, where there is one, on a GPU, converts them to every recipe, and prints three tables. Exit code 1 when a verdict fails.
Usage: tools/demo.py --build FOLDER [--recipe R ...]; leaves FOLDER/moesaic-kernels.zip and FOLDER/demo.json."""

import argparse
import datetime
import json
import pathlib
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU_MODES = ("exact", "oracle", "fast")


def facts(command):
    """(exit code, JSON that the command printed); no JSON is the end of the demo, with what it said."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"demo: {' '.join(str(part) for part in command)}\n{done.stdout}exit code {done.returncode}")


def layer_of(io_file):
    """The layer's number, from the metadata of a safetensors file."""
    with open(io_file, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))["__metadata__"]["layer"]


def is_quantised(folder):
    """Whether the folder's weights are quantised: such layers are not computed yet."""
    config = json.loads((folder / "config.json").read_text())
    return "quantization_config" in config or (folder / "hf_quant_config.json").exists()


def print_table(title, header, rows):
    rows = [header] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def run_layers(moesaic, devices, recipes, on_gpu, bundle):
    """One entry for each recorded layer, recipe and (device, mode). What a GPU has no kernels for runs there in bf16."""
    runs = []
    for io_file in sorted((ROOT / "tests/data/checkpoints").glob("*/io*.safetensors")):
        folder, layer = io_file.parent, layer_of(io_file)
        if is_quantised(folder):
            continue
        for recipe in recipes:
            ways = [("cpu", mode) for mode in CPU_MODES] + [(device["name"], None) for device in devices]
            stored = None  # the checkpoint's own recipe, known after the first run
            for device, mode in ways:
                command = [moesaic, "run", "--model", folder, "--layer", layer, "--input", io_file, "--expect", io_file,
                           "--device", device, "--json"]
                command += ["--mode", mode] if mode else []
                wanted = recipe or (stored if mode or stored in on_gpu else "bf16")
                command += ["--recipe", wanted] if wanted else []
                exit_code, report = facts(["env", f"MOESAIC_BUNDLE={bundle}"] + command)
                stored = stored or report["recipe"]
                runs.append({"folder": folder.name, "layer": layer, "device": device, "mode": mode,
                             "passed": exit_code == 0 and report["verdict"] == "pass", "report": report})
    return runs


def convert_layers(moesaic, runs, recipes):
    """For each checkpoint in 16 bits and each recipe: its first MoE layer with the weights converted, on the CPU."""
    plain = {run["folder"]: run["report"] for run in runs if run["mode"] == "fast" and run["report"]["recipe"] == "bf16"}
    converted = []
    for folder, report in sorted(plain.items()):
        path = ROOT / "tests/data/checkpoints" / folder
        for recipe in recipes:
            exit_code, run = facts([moesaic, "run", "--model", path, "--input", path / "io.safetensors", "--expect",
                                    path / "io.safetensors", "--recipe", recipe, "--json"])
            converted.append({"folder": folder, "recipe": recipe, "passed": exit_code == 0, "report": run})
    return converted


def conversion_rows(converted, recipes):
    for folder in sorted({run["folder"] for run in converted}):
        runs = {run["recipe"]: run for run in converted if run["folder"] == folder}
        yield [folder] + [error_text(runs[r]["report"]["relative_l2"]) + ("" if runs[r]["passed"] else " FAIL")
                          for r in recipes]


def accuracy_rows(runs):
    for run in runs:
        report = run["report"]
        yield (run["folder"], report["family"], run["layer"], report["recipe"],
               run["device"] + (f" {run['mode']}" if run["mode"] else ""), error_text(report["relative_l2"]),
               error_text(report["worst_row_l2"]), error_text(report["tolerance"]), "pass" if run["passed"] else "FAIL")


def error_text(value):
    """A relative error; infinities and NaN come as text."""
    return value if isinstance(value, str) else f"{value:.1e}"


def compile_rows(report):
    for arch in report["archs"]:
        yield (arch["arch"], arch["kernels"], arch["compiled"], f"{arch['seconds']:.1f}", arch["bytes"], "")
    for arch in report["skipped"]:
        yield (arch["arch"], "-", "-", "-", "-", f"skipped: {arch['reason']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--recipe", action="append", help="also with this recipe than the checkpoint's own")
    options = parser.parse_args()
    moesaic, bundle = options.build / "moesaic", options.build / "moesaic-kernels.zip"

    _, doctor = facts([moesaic, "doctor", "--json"])
    start = time.monotonic()
    compile_code, compiled = facts([moesaic, "compile", "--arch", "all", "--out", bundle, "--json"])
    compile_seconds = time.monotonic() - start
    devices = doctor["devices"]
    table = facts([moesaic, "recipes", "--json"])[1]
    recipes = [row["name"] for row in table]
    on_gpu = {row["name"] for row in table if row["gpu_kernels"]}
    runs = run_layers(moesaic, devices, options.recipe or [None], on_gpu, bundle)
    converted = convert_layers(moesaic, runs, recipes)

    print_table("Accuracy: layers of hub checkpoints against outputs that the transformers library recorded",
                ["checkpoint", "family", "layer", "recipe", "device", "rel L2", "worst row", "tolerance", "verdict"],
                accuracy_rows(runs))
    print_table("Recipes: relative L2 error of a layer whose 16-bit weights were converted, against the recorded output (CPU)",
                ["checkpoint"] + recipes, conversion_rows(converted, recipes))
    print_table(f"Kernels compiled ahead of time into {bundle} ({bundle.stat().st_size} bytes, {compile_seconds:.1f} s)",
                ["SM", "kernels", "compiled", "seconds", "bytes", ""], compile_rows(compiled))
    failed = [run for run in runs + converted if not run["passed"]]
    if not devices:
        print("\nNo GPU here: kernels were compiled, the layers ran on the CPU.")
    total = len(runs) + len(converted)
    print(f"\ndemo: {total - len(failed)} of {total} layers right, bundle {'made' if compile_code == 0 else 'FAILED'}")
    report = {"date": datetime.date.today().isoformat(), "doctor": doctor, "compile": compiled, "runs": runs,
              "converted": converted}
    (options.build / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    sys.exit(1 if failed or not runs or compile_code != 0 else 0)


if __name__ == "__main__":
    main()
