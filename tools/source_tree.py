# SPDX-License-Identifier: Apache-2.0
"""What the check_* scripts share: the files they look at, C++ text without comments, and how findings are printed."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE_SUFFIXES = {".cc", ".h", ".cuh", ".c"}
_TOKENS = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)


def code_files(*folders):
    """C, C++ and device texts below `folders`, sorted, as paths below the root."""
    found = []
    for folder in folders:
        found += [p for p in (ROOT / folder).rglob("*") if p.suffix in CODE_SUFFIXES and p.is_file()]
    return sorted(p.relative_to(ROOT) for p in found)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def without_comments(text, keep_strings=True):
    """The text with comments (and, if asked, strings) blanked; line numbers stay."""

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'" and keep_strings:
            return token
        return re.sub(r"[^\n]", " ", token)

    return _TOKENS.sub(blank, text)


def finish(name, findings, looked_at):
    """Prints findings, each 'path:line: what', and ends the process: 1 when there are any or nothing was looked at."""
    for finding in findings:
        print(f"{name}: {finding}")
    if not looked_at:
        findings = findings or ["looked at nothing"]
        print(f"{name}: looked at nothing")
    else:
        print(f"{name}: {len(findings)} findings in {looked_at} files")
    sys.exit(1 if findings else 0)
