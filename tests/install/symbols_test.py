#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The shared library exports what include/moesaic declares, all of it and nothing else: read from its symbol table.
Usage: symbols_test.py LIBRARY"""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
from check_docs import declarations, public_name  # noqa: E402
from source_tree import code_files, read, without_comments  # noqa: E402

C_HEADER = "include/moesaic/moesaic.h"
TYPE = re.compile(r"^(?:class|struct|enum class) (\w+)", re.MULTILINE)
CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
CONSTANT = re.compile(r"^inline constexpr \w+ (\w+)", re.MULTILINE)
OF_CLASS = re.compile(r"^(?:typeinfo name for|typeinfo for|vtable for|guard variable for) ")


def lines_of(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()


def declared():
    """C functions; of the C++ headers types, those of them that are classes, public functions without a body, and
    constants, which a compiler may or may not leave in a library."""
    c_functions = set(re.findall(r"^\w[\w *]*?\b(moesaic_\w+)\(", without_comments(read(C_HEADER)), re.MULTILINE))
    types, classes, functions, constants = set(), set(), set(), set()
    for path in code_files("include"):
        if str(path) == C_HEADER:
            continue
        types |= set(TYPE.findall(read(path)))
        classes |= set(CLASS.findall(read(path)))
        constants |= set(CONSTANT.findall(read(path)))
        for _, statement, _, access in declarations(read(path).splitlines()):
            name = public_name(statement)
            if name and access == "public" and statement.endswith(";") and "std::function<" not in statement \
                    and name not in types:
                functions.add(name)
    return c_functions, types, classes, functions, constants


def exported(library):
    """C names, and C++ names as lists of parts: [moesaic, FusedMoe, run]; all without parameters."""
    c_names, cxx_names = set(), []
    for line in lines_of("nm", "--dynamic", "--defined-only", "--demangle", library):
        symbol = OF_CLASS.sub("", line.split(maxsplit=2)[2])
        name = re.split(r"[(\[]", symbol)[0]
        if "::" in name:
            cxx_names.append((symbol, name.split("::")))
        else:
            c_names.add(name)
    return c_names, cxx_names


def findings_in(library):
    c_functions, types, classes, functions, constants = declared()
    c_names, cxx_names = exported(library)
    if not (c_functions and classes and functions):
        yield f"{len(c_functions)} C functions, {len(classes)} classes, {len(functions)} functions are in the headers"
    for name in sorted(c_functions - c_names):
        yield f"{name} is declared and not exported"
    for name in sorted(c_names - c_functions):
        yield f"{name} is exported and not declared"
    for symbol, parts in cxx_names:
        of_type = len(parts) > 1 and parts[1] in types and "Impl" not in parts
        if parts[0] != "moesaic" or not (of_type or (len(parts) == 2 and parts[1] in functions | constants)):
            yield f"{symbol} is exported and not declared"
    members = {part for _, parts in cxx_names for part in parts}  # names such as `run` are several classes'
    for name in sorted((classes | functions) - members):
        yield f"{name} is declared and not exported"
    raw = {line.split()[-1] for line in lines_of("nm", "--dynamic", "--defined-only", library)}
    for symbol in {"_ZTIN7moesaic5ErrorE", "_ZTVN7moesaic5ErrorE"} - raw:
        yield f"{symbol} is not exported: moesaic::Error cannot be caught by its type"
    print(f"{len(c_names)} C functions and {len(cxx_names)} C++ symbols are exported")


def main():
    library = sys.argv[1]
    findings = list(findings_in(library))
    abi = re.search(r"^#define MOESAIC_ABI_VERSION (\d+)$", read(C_HEADER), re.MULTILINE).group(1)
    sonames = [line for line in lines_of("readelf", "--dynamic", library) if "SONAME" in line]
    if not any(f"[libmoesaic.so.{abi}]" in line for line in sonames):
        findings.append(f"the soname is not libmoesaic.so.{abi}, of MOESAIC_ABI_VERSION")
    sys.exit("\n".join(findings) or 0)


if __name__ == "__main__":
    main()
