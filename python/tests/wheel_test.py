# SPDX-License-Identifier: Apache-2.0
"""The wheel in a fresh environment: built of the binaries at hand, named for every Python, installed, imported; its
command, one layer, and NVRTC beside it are found although the environment is not active.
Usage: wheel_test.py BUILD_FOLDER SOURCE_FOLDER. Exit code 77: scikit-build-core cannot be fetched."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

BACKEND = "scikit-build-core==0.11.6"
LAYER = """
import sys, array, moesaic
layer = moesaic.from_checkpoint(sys.argv[1], max_tokens=8)
x = memoryview(array.array("H", [0x3F80] * 160)).cast("B").cast("H", (1, 160))
y = layer(x, dtype="bf16", out_dtype="f32")
print(moesaic.__version__, moesaic.__file__, type(y).__name__, any(y.memoryview().tolist()[0]))
"""


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
    for name in ("libmoesaic.so", "moesaic", "py.typed", "__init__.py"):
        if f"moesaic/{name}" not in names:
            sys.exit(f"{wheel.name} has no moesaic/{name}: {sorted(names)}")
    left = {name for name in names if not name.startswith("moesaic")}
    if left:
        sys.exit(f"{wheel.name} has more than the package: {sorted(left)}")


def main():
    build, source = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "MOESAIC_NVRTC", "CUDA_HOME"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        builder = environment_in(folder / "builder")
        fetched = subprocess.run([builder, "-m", "pip", "install", "-q", BACKEND, "ninja"], text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if fetched.returncode:
            print(f"skipped: {BACKEND} cannot be fetched: {fetched.stdout.strip().splitlines()[-1]}")
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
        print(f"{wheel.name}: {wheel.stat().st_size} bytes; {version}; one layer; NVRTC beside it")


if __name__ == "__main__":
    main()
