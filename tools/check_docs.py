#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every public function and type of include/moesaic has a comment above it or behind it, and every public module, class
and function of python/moesaic a docstring. Constructors, destructors and operators speak for themselves; overloads and
one-line neighbours each need their own words."""

import ast
import re

from source_tree import ROOT, code_files, finish, read

FUNCTION = re.compile(r"(?<![\w.])(~?\w+)\s*\(")
TYPE = re.compile(r"^\s*(?:typedef\s+)?(?:class|struct|enum class|enum)\s+(\w+)")
NOT_FUNCTIONS = {"if", "for", "while", "return", "switch", "sizeof", "defined", "static_assert"}
PYTHON = "python/moesaic"


def declarations(lines):
    """(line number, text, documented, access) of each statement at namespace or class scope."""
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


def public_name(statement):
    """The declared function's or type's name, or None for data, aliases, special members and forward declarations."""
    declared = TYPE.match(statement)
    if declared:
        forward = statement.endswith(";") and "{" not in statement and not statement.startswith("typedef")
        return None if forward else declared.group(1)
    if statement.startswith(("using ", "namespace ", "friend ", "}")):
        return None
    match = FUNCTION.search(statement.split("=")[0] if "operator" not in statement else statement)
    if not match or match.group(1) in NOT_FUNCTIONS or "operator" in statement or match.group(1).startswith("~"):
        return None
    before = statement[: match.start()].replace("explicit", "").replace("constexpr", "").strip()
    return match.group(1) if before else None  # no return type: a constructor


def undocumented_in_header(path):
    """(names seen, findings) of a header."""
    names, findings = 0, []
    for line, statement, documented, access in declarations(read(path).splitlines()):
        name = public_name(statement)
        if name is None or access != "public":
            continue
        names += 1
        if not documented:
            findings.append(f"{path}:{line}: {name} is public and has no comment")
    return names, findings


def python_definitions(node, prefix=""):
    """(name, node) of public classes, functions and methods, whatever they are nested in but functions."""
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        setter = any(isinstance(d, ast.Attribute) and d.attr in ("setter", "deleter") for d in child.decorator_list)
        overload = any("overload" in ast.dump(d) for d in child.decorator_list)
        if not setter and not overload:  # their property, or the function itself, has the words
            yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from python_definitions(child, f"{prefix}{child.name}.")


def exported_names(package):
    """(module, name) that __init__.py takes from the package's own modules: public although the module is not."""
    face = ROOT / package / "__init__.py"
    tree = ast.parse(face.read_text(encoding="utf-8")) if face.exists() else ast.Module(body=[], type_ignores=[])
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 0]
    return {(node.module, name.name) for node in taken for name in node.names}


def undocumented_in_module(path, exported):
    """(names seen, findings) of a Python module. Of one whose name begins with _ only what is exported counts."""
    tree = ast.parse(read(path), str(path))
    definitions = [("module", tree), *python_definitions(tree)]
    if path.stem.startswith("_") and path.stem != "__init__":
        definitions = [one for one in definitions if (path.stem, one[0].split(".")[0]) in exported]
    return len(definitions), [
        f"{path}:{getattr(node, 'lineno', 1)}: {name} is public and has no docstring"
        for name, node in definitions
        if not ast.get_docstring(node)
    ]


def main():
    headers = code_files("include")
    modules = sorted(p.relative_to(ROOT) for p in (ROOT / PYTHON).rglob("*.py"))
    exported = exported_names(PYTHON)
    of_headers = [undocumented_in_header(path) for path in headers]
    of_modules = [undocumented_in_module(path, exported) for path in modules]
    seen, in_python = (sum(names for names, _ in one) for one in (of_headers, of_modules))
    print(f"check_docs: {seen} public functions and types of C and C++, {in_python} definitions of Python")
    findings = [finding for _, found in [*of_headers, *of_modules] for finding in found]
    finish("check_docs", findings, seen and len(headers) + len(modules))


if __name__ == "__main__":
    main()
