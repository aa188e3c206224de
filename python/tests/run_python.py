# SPDX-License-Identifier: Apache-2.0
"""Runs the first of several Pythons that has the modules that a test needs; "cuda": a GPU that torch sees.
Usage: run_python.py PYTHON[;PYTHON...] MODULE[,MODULE...] ARGUMENT... Exit code 77: there is none."""

import subprocess
import sys


def has(python, modules):
    names = [name for name in modules.split(",") if name != "cuda"]
    needs = f"import {','.join(names)}"
    if len(names) < len(modules.split(",")):
        needs += "; import torch; assert torch.cuda.is_available()"
    try:
        return subprocess.run([python, "-c", needs], stdout=subprocess.DEVNULL,
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
