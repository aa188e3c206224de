#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library's Debian packages and those of kernels, installed together in a root of their own: on a machine with a
driver, without NVRTC and with an empty cache, a layer runs by the packaged kernels. The GPU is simulated
(tests/simulator): one that the architecture table does not list runs the package of PTX, by the command line against
recorded outputs and by the shared library against the oracle; one of SM80 gets the packaged cubins, which the simulator
refuses as the machine code that they are.
Usage: kernels_test.py BUILD_FOLDER CPACK MOESAIC SIMULATOR_FOLDER CACHE. Exit code 77: something is missing."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
NVRTC = SOURCE / ".deps/nvrtc13"
MODEL = SOURCE / "tests/data/checkpoints/mixtral"
LISTED, UNLISTED = "80", "130"
CHOICE = ["--arch", LISTED, "--ptx", "--recipe", "bf16", "--op", "prepare,projection,routing,gemm,weighted_sum"]

# By the Python package over the installed shared library. A simulated GPU's memory is the host's.
LAYER = """
import ctypes, dataclasses, sys
import moesaic
config, weights = moesaic.Checkpoint(sys.argv[1]).load()
config = dataclasses.replace(config, max_tokens=4)
host = moesaic.Array((3, config.hidden), "bf16")
rows = [[0x3C00 + 17 * ((5 * t + 3 * h) % 64) + 0x8000 * ((t + h) % 2) for h in range(config.hidden)] for t in range(3)]
for t, row in enumerate(rows):
    for h, bits in enumerate(row):
        host.memoryview()[t, h] = bits
x = moesaic.Array(host.shape, "bf16", "cuda:0")
ctypes.memmove(x._memory.data, host._memory.data, 2 * 3 * config.hidden)
layer = moesaic.FusedMoe(dataclasses.replace(config, device="cuda:0"), weights)
y = layer(x, out_dtype="f32")
got = (ctypes.c_float * (3 * config.hidden)).from_address(y._memory.data)
reference = moesaic.reference_moe(config, weights, host)  # an array of numpy where that is installed
rows = (reference.memoryview() if isinstance(reference, moesaic.Array) else reference).tolist()
wanted = [value for row in rows for value in row]
distance = sum((a - b) ** 2 for a, b in zip(got, wanted)) ** 0.5 / sum(b * b for b in wanted) ** 0.5
assert len(wanted) == len(got) and any(wanted) and distance < 1e-2, distance
print(moesaic._abi.LIBRARY, *layer.kernels(3))
"""


def output_of(*command, wanted=0, **environment):
    """What a command prints, both streams together; ends the test where its exit code is not the wanted one."""
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != wanted:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}, wanted {wanted}\n{done.stdout}")
    return done.stdout


def expect(text, *words):
    for word in words:
        if word not in text:
            sys.exit(f"wanted '{word}' in\n{text}")


def made_packages(build, cpack, moesaic, cache, folder):
    """The Debian packages of the command line, the shared library, and the kernels for SM80 and as PTX, by name."""
    library = next(build.glob("libmoesaic.so.?")).name.replace(".so.", "")
    output_of(cpack, "-G", "DEB", "-B", folder, "--config", build / "CPackConfig.cmake",
              "-D", f"CPACK_COMPONENTS_ALL=moesaic;{library}", "-D", "CPACK_DEBIAN_COMPRESSION_TYPE=gzip")
    output_of(moesaic, "package", *CHOICE, "--format", "deb", "--output", folder, MOESAIC_NVRTC=str(NVRTC),
              MOESAIC_CACHE_DIR=str(cache))
    files = {file.name.split("_")[0]: file for file in folder.glob("*.deb")}
    if set(files) != {"moesaic", library, f"moesaic-kernels-sm{LISTED}", "moesaic-kernels-ptx"}:
        sys.exit(f"packages: {sorted(files)}")
    return files, library


def install(root, *files):
    """As debian_test.py: what dpkg runs behind unpacking wants a root with a shell and ldconfig."""
    for file in files:
        output_of("dpkg-deb", "-x", file, root)


def python_over(library, folder):
    """The Python package as a wheel lays it out, with that library."""
    shutil.copytree(SOURCE / "python/moesaic", folder / "moesaic", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "moesaic/libmoesaic.so").symlink_to(library)
    return folder


def main():
    build, cpack, moesaic, simulator, cache = (pathlib.Path(argument) for argument in sys.argv[1:])
    missing = [tool for tool in ("dpkg-deb", "dpkg-shlibdeps", "file") if not shutil.which(tool)]
    if missing or not NVRTC.is_dir():
        print(f"skipped: there is no {', '.join(missing) or '.deps/nvrtc13 (tools/fetch_nvrtc.sh fetches it)'}")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        files, library = made_packages(build, cpack, moesaic, cache, folder)
        root = folder / "root"
        root.mkdir()
        driver_alone = {"LD_LIBRARY_PATH": str(simulator), "MOESAIC_NVRTC": "/nowhere", "MOESAIC_BUNDLE": "",
                        "MOESAIC_PACKAGES": "", "MOESAIC_CACHE_DIR": str(folder / "cache")}
        newer, listed = ({**driver_alone, "MOESAIC_SIM_ARCH": arch} for arch in (UNLISTED, LISTED))
        command = [root / "usr/bin/moesaic", "run", "--model", MODEL, "--input", MODEL / "io.safetensors", "--expect",
                   MODEL / "io.safetensors", "--device", "cuda:0"]

        install(root, files["moesaic"], files[library])
        expect(output_of(*command, wanted=1, **newer), "no package moesaic-kernels-ptx is installed")
        expect(output_of(*command, wanted=1, **listed), f"no package moesaic-kernels-sm{LISTED} is installed")

        install(root, files["moesaic-kernels-ptx"], files[f"moesaic-kernels-sm{LISTED}"])
        packages = root / "usr/share/moesaic/kernels"
        expect(output_of(root / "usr/bin/moesaic", "doctor", **newer), f"{packages / 'ptx.zip'}: ptx,",
               f"{packages / f'sm{LISTED}.zip'}: sm{LISTED},")
        printed = output_of(*command, "--json", **newer)
        report, _ = json.JSONDecoder().raw_decode(printed[printed.index("{"):])
        if report["verdict"] != "pass" or any("cpu" in kernel for kernel in report["kernels"]):
            sys.exit(f"the layer by packaged PTX: {report}")
        expect(output_of(*command, wanted=1, **listed), "simulator: runs PTX, not machine code")
        site = python_over(next(root.rglob(f"{library[:-1]}.so.{library[-1]}")), folder / "site")
        printed = output_of(sys.executable, "-c", LAYER, MODEL, PYTHONPATH=str(site), **newer)
        expect(printed, str(site / "moesaic/libmoesaic.so"), "warp_stream_bf16")
        if (folder / "cache").exists():
            sys.exit("kernels came to the cache: a compiler was there")
        print(f"by {', '.join(sorted(files))}: {', '.join(report['kernels'])}")


if __name__ == "__main__":
    main()
