# SPDX-License-Identifier: Apache-2.0
"""Runs the first of several Pythons that has the modules that a test needs.
Usage: run_python.py PYTHON[;PYTHON...] MODULE[,MODULE...] ARGUMENT... Exit code 77: there is none."""

import subprocess
import sys


def has(python, modules):
    try:
        return subprocess.run([python, "-c", f"import {modules}"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def main():
    pythons, modules, *arguments = sys.argv[1:]
    for python in pythons.split(";"):
        if has(python, modules):
            sys.exit(subprocess.run([python, *arguments], check=False).returncode)
    print(f"skipped: none of {pythons} has all of {modules}")
    sys.exit(77)


if __name__ == "__main__":
    main()
