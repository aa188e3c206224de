#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages: built by cpack, without errors of lintian, unpacked in a root of their own, where the command
line runs and a project outside this one builds and runs against them.
Usage: debian_test.py BUILD_FOLDER CMAKE CPACK CC CXX. Exit code 77: a program that this needs is missing."""

import pathlib
import re
import shutil
import sys
import tempfile

from install_test import ABI, WANTED, build_by_cmake, check_runs, output_of

LIBRARY = f"libmoesaic{ABI}"
PACKAGES = {LIBRARY, "libmoesaic-dev", "moesaic"}


def built_packages(build, cpack, folder):
    """The three files, by the name of the package."""
    output_of(cpack, "-G", "DEB", "-B", folder, "--config", build / "CPackConfig.cmake")
    files = {file.name.split("_")[0]: file for file in folder.glob("*.deb")}
    if set(files) != PACKAGES:
        sys.exit(f"cpack made {sorted(files)}, wanted {sorted(PACKAGES)}")
    return files


def check_control(files):
    """What a package must say of itself beyond what lintian wants to see."""
    version = output_of("dpkg-deb", "-f", files["moesaic"], "Version").strip()
    depends = {name: output_of("dpkg-deb", "-f", file, "Depends") for name, file in files.items()}
    for name, wanted in (LIBRARY, "libc6 (>="), ("moesaic", "libc6 (>="), ("libmoesaic-dev", f"{LIBRARY} (= {version})"):
        if wanted not in depends[name]:
            sys.exit(f"{name} depends on {depends[name]}; wanted {wanted}")
    shlibs = output_of("dpkg-deb", "-I", files[LIBRARY], "shlibs")
    if shlibs.split() != ["libmoesaic", ABI, LIBRARY, "(=", f"{version})"]:
        sys.exit(f"shlibs of {LIBRARY}: {shlibs}")
    if "ldconfig" not in output_of("dpkg-deb", "-I", files[LIBRARY], "triggers"):
        sys.exit(f"{LIBRARY} does not have the linker's cache brought up to date")
    return version


def main():
    build, cmake, cpack, cc, cxx = sys.argv[1:]
    build = pathlib.Path(build)
    missing = [tool for tool in ("dpkg-deb", "dpkg-shlibdeps", "lintian", "file", "help2man") if not shutil.which(tool)]
    if missing:
        print(f"skipped: there is no {', '.join(missing)}; apt-get install dpkg-dev lintian file help2man")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        files = built_packages(build, cpack, folder)
        version = check_control(files)
        print(output_of("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", *files.values()))
        root = folder / "root"
        for file in files.values():
            output_of("dpkg-deb", "-x", file, root)
        if not (root / "usr/share/man/man1/moesaic.1.gz").is_file():
            sys.exit("there is no manual page of the command line")
        printed = output_of(root / "usr/bin/moesaic", "--version")
        if not re.fullmatch(rf"moesaic {re.escape(version)}\n", printed):
            sys.exit(f"the command line printed {printed}")
        programs = build_by_cmake(root / "usr", folder, cmake, cc, cxx)
        libraries = next(root.rglob(f"libmoesaic.so.{ABI}")).parent
        for program in WANTED:
            for linkage in "shared", "static":
                check_runs(program, linkage, programs / f"{program}_{linkage}", libraries)


if __name__ == "__main__":
    main()
