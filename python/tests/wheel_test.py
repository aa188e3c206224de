# SPDX-License-Identifier: Apache-2.0
"""The wheel in a fresh environment: built of the binaries at hand, named for every Python, installed, imported; its
command, one layer, and NVRTC beside it are found although the environment is not active. Its stubs are whole, and by
them mypy tells right calls from wrong ones.
Usage: wheel_test.py BUILD_FOLDER SOURCE_FOLDER. Exit code 77: what builds a wheel cannot be fetched."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

REQUIREMENTS = pathlib.Path(__file__).resolve().parents[2] / "tools/wheel_requirements.txt"
LAYER = """
import sys, array, moesaic
layer = moesaic.from_checkpoint(sys.argv[1], max_tokens=8)
x = memoryview(array.array("H", [0x3F80] * 160)).cast("B").cast("H", (1, 160))
y = layer(x, dtype="bf16", out_dtype="f32")
print(moesaic.__version__, moesaic.__file__, type(y).__name__, any(y.memoryview().tolist()[0]))
"""

# A caller who has types checked, and lines that must not pass.
CALLER = """
from pathlib import Path
from typing import Any
import moesaic

def run(folder: Path, x: Any) -> tuple[list[str], int]:
    config, weights = moesaic.Checkpoint(folder).load()
    layer: moesaic.FusedMoe = moesaic.FusedMoe(config, weights.convert(config), modules=moesaic.ModuleOptions())
    y = layer(x, out_dtype="f32")
    routed = moesaic.route(y, config.top_k, rows=True)
    quantized: moesaic.Quantized = moesaic.quantize(routed.weights, "mxfp8")
    product = moesaic.Gemm([quantized], recipe="mxfp8", max_rows=64)
    error: type[ValueError] = moesaic.InvalidArgumentError
    return layer.kernels(8) + product.kernels(8), product.n + layer.workspace_bytes(8)
"""
WRONG_CALLS = {
    'moesaic.FusedMoe(8)': "arg-type",
    'moesaic.MoeConfig(hidden="128", intermediate=64, num_experts=8, top_k=2)': "arg-type",
    'moesaic.route([1.0])': "call-arg",
    'moesaic.from_checkpoint("folder", device="cpu").kernels("8")': "arg-type",
    'moesaic.quantise([1.0], "mxfp8")': "attr-defined",
    'text: bytes = moesaic.explain(moesaic.Checkpoint("folder").load()[0])': "assignment",
    'moesaic.from_checkpoint("folder").config.recipe.bits': "attr-defined",
}


def output_of(*command, **environment):
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def environment_in(folder):
    output_of(sys.executable, "-m", "venv", folder)
    return folder / "bin/python"


def check_wheel(wheel):
    if not (wheel.name.startswith("moesaic-") and "-py3-none-" in wheel.name):
        sys.exit(f"{wheel.name}: wanted moesaic-VERSION-py3-none-PLATFORM.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    stubs = {name + "i" for name in names if name.endswith(".py")}
    for name in {f"moesaic/{name}" for name in ("libmoesaic.so", "moesaic", "py.typed", "__init__.py")} | stubs:
        if name not in names:
            sys.exit(f"{wheel.name} has no {name}: {sorted(names)}")
    left = {name for name in names if not name.startswith("moesaic")}
    if left:
        sys.exit(f"{wheel.name} has more than the package: {sorted(left)}")


def check_types(builder, python, site, folder):
    """mypy, of the environment that built the wheel, over the stubs themselves and callers of what is installed."""
    stubs = folder / "stubs"
    shutil.copytree(site / "moesaic", stubs / "moesaic", ignore=lambda _, names: {
        name for name in names if not name.endswith((".pyi", ".typed"))})
    mypy = [builder, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={folder / 'mypy'}"]
    output_of(*mypy, "--ignore-missing-imports", stubs / "moesaic")
    public = re.findall(r"^from \.(\w+) import", (stubs / "moesaic/__init__.pyi").read_text(), re.MULTILINE)
    untyped = [name for name in public if "Incomplete" in (stubs / f"moesaic/{name}.pyi").read_text()]
    if untyped or not public:
        sys.exit(f"of {public}, {untyped} have attributes without a written type")
    caller = folder / "caller.py"
    caller.write_text(CALLER)
    output_of(*mypy, "--python-executable", python, caller)
    caller.write_text(CALLER + "\n".join(WRONG_CALLS) + "\n")
    found = subprocess.run([*map(str, mypy), "--python-executable", str(python), str(caller)], text=True, check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    first = CALLER.count("\n") + 1
    wanted = [(str(first + index), kind) for index, kind in enumerate(WRONG_CALLS.values())]
    if re.findall(r"^.*caller\.py:(\d+): error: .*\[(.*)\]$", found, re.MULTILINE) != wanted:
        sys.exit(f"mypy of wrong calls: wanted errors {wanted}, found\n{found}")


def main():
    build, source = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "MOESAIC_NVRTC", "CUDA_HOME"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        builder = environment_in(folder / "builder")
        fetched = subprocess.run([builder, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if fetched.returncode:
            print(f"skipped: {REQUIREMENTS.name} cannot be fetched: {fetched.stdout.strip().splitlines()[-1]}")
            sys.exit(77)
        output_of(builder, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "wheels",
                  source, "-C", f"cmake.define.MOESAIC_PREBUILT={build}", "-C", f"build-dir={folder / 'cmake'}")
        (wheel,) = (folder / "wheels").iterdir()
        check_wheel(wheel)
        python = environment_in(folder / "user")
        output_of(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
        bin_folder = python.parent
        # Beside the package, as the wheels of NVRTC install it: any ELF file will do to be found.
        (site,) = (folder / "user").glob("lib/python3*/site-packages")
        nvrtc = site / "nvidia/cu13/lib"
        nvrtc.mkdir(parents=True)
        for library in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0"):
            shutil.copy(build / "libmoesaic.so", nvrtc / library)
        os.chdir(folder)
        printed = output_of(python, "-I", "-c", LAYER, source / "tests/data/checkpoints/mixtral").split()
        version = output_of(bin_folder / "moesaic", "--version").strip()
        if version != f"moesaic {printed[0]}" or printed[1:] != [str(site / "moesaic/__init__.py"), "Array", "True"]:
            sys.exit(f"the command says '{version}', the package {printed}")
        doctor = output_of(bin_folder / "moesaic", "doctor", "--json", PATH="/nowhere")
        if str(nvrtc) not in doctor:
            sys.exit(f"`moesaic doctor` does not find {nvrtc}:\n{doctor}")
        check_types(builder, python, site, folder)
        print(f"{wheel.name}: {wheel.stat().st_size} bytes; {version}; one layer; NVRTC beside it; types")


if __name__ == "__main__":
    main()
