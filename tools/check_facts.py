#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A fact stands in one place: no SM number outside the tables and the kernel families, no __CUDA_ARCH__, no comment
that asks to keep two places in step, none that promises. Also: every file says its licence and purpose first."""

import re

from source_tree import CODE_SUFFIXES, ROOT, code_files, finish, read, without_comments

SM_NUMBER = re.compile(r"\b(?:sm|compute)_\d{2,3}[af]?\b|\bsm\s*(?:==|!=|<=?|>=?)\s*\d+|\bkSm\d+\b")
SYNC = re.compile(r"ke(?:ep|pt)\b.{0,20}\bin sync|\bin sync with", re.IGNORECASE)
# What is missing stands in docs/TODO.md alone: a promise in the source outlives its day.
PROMISE = re.compile(
    r"(?<!docs/)\bTODO\b(?!\.md)|\b(?:FIXME|XXX|HACK)\b|"
    r"\b(?:for now|not yet|(?:no|nothing|none) \w* ?yet|for the time being|coming soon|eventually|temporarily|in the future|"
    r"(?:will|shall) (?:be|become|come|get|have|need|serve|support|follow)|planned for|to be done)\b",
    re.IGNORECASE)
TEXT_SUFFIXES = CODE_SUFFIXES | {"", ".cmake", ".in", ".md", ".py", ".sh", ".txt"}
PROMISE_FREE = ("CMakeLists.txt", "Makefile", "cmake", "tools", "tests", ".ci", "docs", "AGENTS.md", "CONTRIBUTING.md")
PROMISES_ALLOWED = {"docs/TODO.md", "docs/performance-log.md", "tools/check_facts.py", "tests/tools/check_facts_test.py"}
FAMILY_FOLDER = re.compile(r"kernels/(?:warp|sm\d+)/")


def findings_in(path):
    text = read(path)
    first, second = (text.splitlines() + ["", ""])[:2]
    if first != "// SPDX-License-Identifier: Apache-2.0":
        yield f"{path}:1: does not begin with the SPDX line"
    elif not second.startswith("//"):
        yield f"{path}:2: no line that says what the file is for"
    in_table = str(path).startswith("src/tables/") or FAMILY_FOLDER.match(str(path)) is not None
    for number, line in enumerate(text.splitlines(), 1):
        if "__CUDA_ARCH__" in line:
            yield f"{path}:{number}: __CUDA_ARCH__: ask the target in moesaic_config.h"
        if SYNC.search(line):
            yield f"{path}:{number}: two places to keep in step: use a table or a static_assert"
    if path.parts[0] in ("src", "kernels") and not in_table:
        help_texts = path.parts[:2] == ("src", "cli")  # examples of what users type
        for number, line in enumerate(without_comments(text, keep_strings=not help_texts).splitlines(), 1):
            match = SM_NUMBER.search(line)
            if match:
                yield f"{path}:{number}: {match.group(0)}: architectures are rows of src/tables/arch_table.h"


def comments(path):
    """(line number, text) of what may promise something: comments, docstrings and documents."""
    for number, line in enumerate(read(path).splitlines(), 1):
        if path.suffix in CODE_SUFFIXES:
            yield number, line[line.find("//") :] if "//" in line else ""
        elif path.suffix in {".py", ".md"}:
            yield number, line
        else:
            yield number, line[line.find("#") :] if "#" in line else ""


def promises():
    """Findings in code, build files, scripts and documents."""
    paths = set(code_files("src", "kernels", "include", "tests", "bench", "examples"))
    for name in PROMISE_FREE:
        found = [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*")
        paths |= {p.relative_to(ROOT) for p in found if p.is_file() and p.suffix in TEXT_SUFFIXES and "data" not in p.parts}
    for path in sorted(paths):
        for number, text in comments(path) if str(path) not in PROMISES_ALLOWED else []:
            match = PROMISE.search(text)
            if match:
                yield f"{path}:{number}: '{match[0]}': what is missing stands in docs/TODO.md"


def main():
    files = code_files("src", "kernels", "include", "tests", "bench", "examples")
    finish("check_facts", [f for path in files for f in findings_in(path)] + list(promises()), len(files))


if __name__ == "__main__":
    main()
