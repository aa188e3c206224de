#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints a public header with Doxygen's markers on its plain comments, line by line: those behind members and
enumerators become ///<, those above indented members ///, and the purpose lines at the top the file's own.
Usage: doxygen_filter.py HEADER"""

import re
import sys

# `int n = 0, k = 0;`: words behind it would be the last one's alone.
_SEVERAL = re.compile(r"((?:const )?[\w:]+) (\*?\w+(?: = [^,;]+)?(?:, \*?\w+(?: = [^,;]+)?)+);")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')


def comment_column(line):
    """Where a line's // comment begins, or -1."""
    return _STRING.sub(lambda match: "_" * len(match.group(0)), line).find("//")


def marked(lines):
    """The lines of a header, marked. Comments that have markers, and dashed rules between sections, stay."""
    in_head, trailing_column = True, -1
    for number, line in enumerate(lines):
        column = comment_column(line)
        code = line[:column].strip() if column >= 0 else line.strip()
        if in_head:
            in_head = line.startswith("//")
            if in_head:
                yield "/// @file" if number == 0 else "///" + line[2:]
                continue
        if column < 0 or line.startswith("///", column) or line.startswith("// ---", column):
            trailing_column = -1
            yield line
        elif code and not code.startswith(("}", "#")):  # not what a bracket closes
            trailing_column = column
            several = _SEVERAL.fullmatch(code)
            if several:
                words = line[column + 2 :].strip()
                yield " ".join(f"/** {words} */ {several[1]} {one};" for one in several[2].split(", "))
            else:
                yield line[:column] + "///<" + line[column + 2 :]
        elif not code and column == trailing_column:
            yield line[:column] + "///<" + line[column + 2 :]
        elif not code and column > 0:
            yield line[:column] + "///" + line[column + 2 :]
        else:
            yield line


def main():
    with open(sys.argv[1], encoding="utf-8") as header:
        print("\n".join(marked(header.read().splitlines())))


if __name__ == "__main__":
    main()
