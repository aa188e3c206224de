#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every public function of include/moesaic has a comment above it or behind it. Constructors, destructors and
operators speak for themselves; overloads and one-line neighbours each need their own words."""

import re

from source_tree import code_files, finish, read

FUNCTION = re.compile(r"(?<![\w.])(~?\w+)\s*\(")
TYPE = re.compile(r"^\s*(?:class|struct|enum class|enum)\s+(\w+)")
NOT_FUNCTIONS = {"if", "for", "while", "return", "switch", "sizeof", "defined", "static_assert"}


def declarations(lines):
    """(line number, text, documented) of each statement at namespace or class scope that opens a parenthesis."""
    statement, start, access, depth_of_body = "", 0, "public", 0
    documented = False
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if depth_of_body:
            depth_of_body += line.count("{") - line.count("}")
            continue
        if stripped.startswith("//"):
            documented = documented or not statement
            continue
        if not stripped or stripped.startswith("#"):
            documented = documented if statement else False
            continue
        if re.match(r"(public|private|protected):", stripped):
            access, documented = stripped.split(":")[0], False
            continue
        code, _, trailing = stripped.partition("//")
        if not statement:
            start = number
        statement += " " + code.strip()
        if not (code.rstrip().endswith((";", "{", "}", ",")) and statement.count("(") == statement.count(")")):
            continue
        if code.rstrip().endswith(","):
            if "(" in statement:
                continue  # a list of parameters goes on
        yield start, statement.strip(), documented or bool(trailing), access
        opened = statement.count("{") - statement.count("}")
        if opened > 0 and FUNCTION.search(statement) and not TYPE.match(statement):
            depth_of_body = opened
        if TYPE.match(statement):
            access = "private" if statement.strip().startswith("class") else "public"
        if stripped.startswith("};"):
            access = "public"
        statement, documented = "", False


def function_name(statement):
    """The declared function's name, or None for types, data and special members."""
    if TYPE.match(statement) or statement.startswith(("using ", "namespace ", "friend ", "}")):
        return None
    match = FUNCTION.search(statement.split("=")[0] if "operator" not in statement else statement)
    if not match or match.group(1) in NOT_FUNCTIONS or "operator" in statement or match.group(1).startswith("~"):
        return None
    before = statement[: match.start()].replace("explicit", "").replace("constexpr", "").strip()
    return match.group(1) if before else None  # no return type: a constructor


def main():
    files = code_files("include")
    findings, seen = [], 0
    for path in files:
        for line, statement, documented, access in declarations(read(path).splitlines()):
            name = function_name(statement)
            if name is None or access != "public":
                continue
            seen += 1
            if not documented:
                findings.append(f"{path}:{line}: {name} is public and has no comment")
    print(f"check_docs: {seen} public functions")
    finish("check_docs", findings, seen and len(files))


if __name__ == "__main__":
    main()
