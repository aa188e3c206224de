#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every kernel row of the first GPU under the four tools of compute-sanitizer, on one small shape each: each
configuration of a GEMM and x put in expert order by a recorded layer, quantisers and activations by cases of the device
tier. Exit code 77 where there is no GPU or no compute-sanitizer.
Usage: sanitize.py MOESAIC CHECKPOINTS TESTS [--jobs N] [--tools T ...]   (TESTS: the folder of test_device)"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PLAIN = "mixtral"  # converted to every recipe
STATIC_SCALES = {"nvfp4": "qwen3_moe_nvfp4", "fp8_tensor": "qwen3_moe_modelopt_fp8"}  # GEMM 1 quantises its result
# Small cases: (executable, filter, in how many parts).
CASES = (("test_device_quantize", "*AddressesNeedNoAlignment*:*DequantizesAsTheOracle*", 4),
         ("test_device_quantize", "*RowsEndWithTheLastTile*", 1),
         ("test_device", "DeviceActivationTest.*", 1))
SECONDS = 300  # of one program under one tool


def facts(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Job:
    """A program, and a kernel that its report must name."""

    def __init__(self, name, command, kernel=None, environment=()):
        self.name, self.command, self.kernel, self.environment = name, command, kernel, dict(environment)


def layer_job(options, row, recipe, folder, config=None):
    kernel = f"{row}/{config}" if config else row
    files = options.checkpoints / folder
    command = [options.moesaic, "run", "--model", files, "--input", files / "io.safetensors", "--device", "cuda:0",
               "--recipe", recipe, "--json"]
    return Job(f"{kernel} {recipe} {folder}", command, kernel, {"MOESAIC_FORCE_KERNEL": kernel})


def jobs_of(options, sm):
    """What runs every row that the architecture has."""
    cells = [cell for cell in facts([options.moesaic, "explain", "--arch", str(sm), "--json"]) if cell["sm"] == sm]
    listed = facts([options.moesaic, "compile", "--arch", str(sm), "--op", "gemm", "--list", "--json"])
    for row in sorted({kernel["row"] for kernel in listed}):
        recipes = [cell["recipe"] for cell in cells if cell["op"] == "gemm"
                   for candidate in cell["candidates"] if candidate["row"] == row and candidate["serves"]]
        for config in (kernel["config"] for kernel in listed if kernel["row"] == row):
            yield layer_job(options, row, recipes[0], PLAIN, config)
            for recipe in STATIC_SCALES.keys() & set(recipes):
                yield layer_job(options, row, recipe, STATIC_SCALES[recipe], config)
    if any(c["row"] == "gather_rows" and c["serves"] for cell in cells for c in cell["candidates"]):
        yield layer_job(options, "gather_rows", "bf16", PLAIN)
    for executable, cases, parts in CASES:
        for part in range(parts):
            yield Job(f"{executable} {cases} {part + 1}/{parts}", [options.tests / executable, f"--gtest_filter={cases}"],
                      environment={"GTEST_TOTAL_SHARDS": str(parts), "GTEST_SHARD_INDEX": str(part)})


def fault_of(sanitizer, tool, job, folder, number):
    """What is wrong with the job under the tool, or None."""
    log = folder / f"{number}.log"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--log-file", log, *job.command]
    try:
        done = subprocess.run([str(part) for part in command], env=os.environ | job.environment, capture_output=True,
                              text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    summaries = [line for line in said.splitlines() if "SUMMARY" in line]
    if done.returncode != 0 or not summaries:
        return f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}{said[-4000:]}"
    if job.kernel is None:
        return None if "[  PASSED  ]" in done.stdout and "SKIPPED" not in done.stdout else done.stdout[-2000:]
    ran = json.loads(done.stdout)["kernels"]
    return None if any(kernel == job.kernel or kernel.split("/")[0] == job.kernel for kernel in ran) else f"ran {ran}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("moesaic", "checkpoints", "tests"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=max(1, min(12, (os.cpu_count() or 2) * 3 // 4)))
    parser.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    options = parser.parse_args()
    devices = facts([options.moesaic, "doctor", "--json"])["devices"]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if not devices or sanitizer is None:
        print(f"sanitize: skipped, no {'compute-sanitizer' if devices else 'GPU'}")
        return 77
    start, faults = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MOESAIC_CACHE_DIR", folder + "/cache")
        jobs = list(jobs_of(options, devices[0]["sm"]))
        subprocess.run([options.moesaic, "compile", "--arch", "native"], check=True, capture_output=True)
        runs = [(tool, job) for job in jobs for tool in options.tools]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            found = pool.map(lambda one: fault_of(sanitizer, *one[1], pathlib.Path(folder), one[0]), enumerate(runs))
            for (tool, job), fault in zip(runs, found):
                print(f"{tool:10} {job.name}: {'0 findings' if fault is None else fault}", flush=True)
                faults += [fault] if fault is not None else []
    print(f"sanitize: {len(jobs)} programs under {', '.join(options.tools)}: {len(faults)} faults, "
          f"{time.monotonic() - start:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
