#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Files, host functions and device functions (universal-ctags finds them) of at most so many lines; test data of at
most so many bytes. Tables and tests are exempt from the function limit."""

import json
import shutil
import subprocess
import sys

from source_tree import ROOT, code_files, finish, read

MAX_FILE, MAX_HOST, MAX_DEVICE = 600, 60, 120
MAX_TEST_DATA_MB = 12


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
    data = sum(p.stat().st_size for p in (ROOT / "tests/data").rglob("*") if p.is_file())
    if data > MAX_TEST_DATA_MB << 20:
        findings.append(f"tests/data: {data} bytes, at most {MAX_TEST_DATA_MB} MB")
    finish("check_sizes", findings, len(files))


if __name__ == "__main__":
    main()
