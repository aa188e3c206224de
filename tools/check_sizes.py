#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files of at most 600 lines; host functions of at most 60, device functions of at most 120 (universal-ctags finds
them). Tables and tests are exempt from the function limit."""

import json
import shutil
import subprocess
import sys

from source_tree import ROOT, code_files, finish, read

MAX_FILE, MAX_HOST, MAX_DEVICE = 600, 60, 120


def functions(paths):
    """(path, name, first line, lines) of every function definition."""
    command = ["ctags", "--output-format=json", "--fields=+ne", "--langmap=C++:+.cuh.h", "--kinds-C++=f", "-f", "-"]
    out = subprocess.run(command + [str(p) for p in paths], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        tag = json.loads(line)
        if "end" in tag:
            yield tag["path"], tag["name"], tag["line"], tag["end"] - tag["line"] + 1


def main():
    files = code_files("src", "kernels", "include", "tests", "bench", "examples")
    findings = []
    for path in files:
        lines = read(path).count("\n")
        if lines > MAX_FILE:
            findings.append(f"{path}: {lines} lines, at most {MAX_FILE}")
    if shutil.which("ctags") is None:
        sys.exit("check_sizes: ctags is missing (Debian: universal-ctags)")
    bodies = [p for p in files if p.parts[0] in ("src", "kernels") and p.parts[:2] != ("src", "tables")]
    for path, name, line, lines in functions(bodies) if bodies else []:
        limit = MAX_DEVICE if path.startswith("kernels/") else MAX_HOST
        if lines > limit:
            findings.append(f"{path}:{line}: {name} has {lines} lines, at most {limit}")
    finish("check_sizes", findings, len(files))


if __name__ == "__main__":
    main()
