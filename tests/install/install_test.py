#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Projects outside this one use the installed library: consumer/ is built and run against a prefix that was installed
and then moved, with find_package or with pkg-config and plain compiler calls, each shared and static.
Usage: install_test.py cmake|pkg-config BUILD_FOLDER CMAKE CC CXX. Exit code 77: there is no pkg-config."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

CONSUMER = pathlib.Path(__file__).resolve().parent / "consumer"
ABI = re.search(r"^#define MOESAIC_ABI_VERSION (\d+)$",
                (CONSUMER.parents[2] / "include/moesaic/moesaic.h").read_text(), re.MULTILINE).group(1)
WANTED = {
    "layer": "layer: 4 4\nerror: invalid argument\n",
    "calls": f"ABI: {ABI} of the library, {ABI} of the header\nNVFP4 [2, 32]: 32 bytes of codes\n"
             "refused: input/output error\n",
}


def output_of(*command, **environment):
    """What the command prints; ends the test, with all it said, when it fails."""
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def installed(build, cmake, folder):
    """A prefix that lies elsewhere than it was installed to: nothing in it may name its place."""
    output_of(cmake, "--install", build, "--prefix", folder / "installed")
    return (folder / "installed").rename(folder / "moved")


def check_runs(name, linkage, program, libraries):
    """The program's output, and that it loads the shared library exactly where it should."""
    printed = output_of(program, LD_LIBRARY_PATH=str(libraries))
    if printed != WANTED[name]:
        sys.exit(f"{program.name} printed\n{printed}wanted\n{WANTED[name]}")
    needs = f"libmoesaic.so.{ABI}" in output_of("readelf", "--dynamic", program)
    if needs != (linkage == "shared"):
        sys.exit(f"{program.name}: libmoesaic.so.{ABI} is {'' if needs else 'not '}among the libraries that it loads")
    print(f"{name}, {linkage}: ran")


def build_by_cmake(prefix, folder, cmake, cc, cxx):
    build = folder / "consumer"
    output_of(cmake, "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_C_COMPILER={cc}",
              f"-DCMAKE_CXX_COMPILER={cxx}")
    output_of(cmake, "--build", build)
    return build


def build_by_pkg_config(prefix, folder, cc, cxx):
    packages = next(prefix.rglob("moesaic.pc")).parent
    paths = f"{packages}:{os.environ.get('PKG_CONFIG_PATH', '')}".rstrip(":")
    for linkage, package in ("shared", "moesaic"), ("static", "moesaic-static"):
        flags = shlex.split(output_of("pkg-config", "--cflags", "--libs", package, PKG_CONFIG_PATH=paths))
        output_of(cxx, "-std=c++20", CONSUMER / "layer.cc", *flags, "-o", folder / f"layer_{linkage}")
        output_of(cc, "-std=c11", CONSUMER / "calls.c", *flags, "-o", folder / f"calls_{linkage}")
    return folder


def main():
    way, build, cmake, cc, cxx = sys.argv[1:]
    if way == "pkg-config" and not shutil.which("pkg-config"):
        print("skipped: there is no pkg-config; apt-get install pkgconf")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prefix = installed(build, cmake, folder)
        libraries = next(prefix.rglob(f"libmoesaic.so.{ABI}")).parent
        if way == "cmake":
            programs = build_by_cmake(prefix, folder, cmake, cc, cxx)
        else:
            programs = build_by_pkg_config(prefix, folder, cc, cxx)
        for program in WANTED:
            for linkage in "shared", "static":
                check_runs(program, linkage, programs / f"{program}_{linkage}", libraries)
        version = output_of(next(prefix.rglob("bin/moesaic")), "--version")
        print(f"the command line: {version.strip()}")


if __name__ == "__main__":
    main()
