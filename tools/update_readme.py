#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the output of `moesaic explain` between the markers of README.md. Usage: tools/update_readme.py MOESAIC"""

import pathlib
import subprocess
import sys

BEGIN, END = "<!-- support matrix: make readme -->\n", "<!-- end of support matrix -->"


def main():
    readme = pathlib.Path(__file__).resolve().parent.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit("update_readme: README.md has lost its markers")
    matrix = subprocess.run([sys.argv[1], "explain"], check=True, capture_output=True, text=True).stdout
    head, rest = text.split(BEGIN, 1)
    readme.write_text(head + BEGIN + matrix + END + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
