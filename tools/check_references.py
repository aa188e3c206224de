#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What documents and comments name exists: files, links, `make` targets, environment variables, identifiers in code
spans, tests, layers, limits, device test executables. docs/performance-log.md and CHANGELOG.md are history: of these
only links count."""

import re

import check_layers
import check_sizes
from source_tree import ROOT, code_files, finish, read

HISTORY = {"docs/performance-log.md", "CHANGELOG.md"}
EXAMPLES = {"CamelCase", "snake_case", "kCamelCase", "MOESAIC_X"}  # of names, and files that are called x or of a test
EXAMPLE_PATH = re.compile(r"/x(?:_test)?\.\w+$|^kernels/test/")
TOP = "src|kernels|include|tests|tools|docs|bench|examples|cmake|python|packaging"
PATH = re.compile(rf"(?<![\w/.$>-])((?:{TOP})/[\w./*{{}},-]*[\w*}}/])(?![\w<])")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
IDENTIFIER = re.compile(
    r"(?:\w+(?:::|\.))*(?:k[A-Z]\w*|[A-Z][a-z]\w*[A-Z]\w*|[a-z]+(?:_[a-z0-9]+)+|(?<=::)\w+)(?:\(\))?")


def words_of_the_code():
    """Every word of code, build files and scripts: what an identifier is made of."""
    suffixes = {".cc", ".h", ".cuh", ".c", ".py", ".sh", ".txt", ".cmake", ".in", ".map"}
    words = set()
    for folder in [*TOP.split("|"), "."]:
        files = (ROOT / folder).rglob("*") if folder != "." else ROOT.glob("*")
        for path in files:
            if path.suffix in suffixes and path.is_file() and "data" not in path.parts and folder != "docs":
                words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return words


def documents():
    found = [p.relative_to(ROOT) for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    return sorted(path for path in found if path.is_file() or (ROOT / path).is_file())


def alternatives(path):
    """`a/{b,c}.h` is a/b.h and a/c.h."""
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    before, after = path[: match.start()], path[match.end() :]
    return [one for choice in match[1].split(",") for one in alternatives(before + choice + after)]


def missing_paths(text):
    for match in PATH.finditer(text):
        for one in alternatives(match[1].rstrip(".,")):
            there = (ROOT / one).exists() or ("*" in one and list(ROOT.glob(one)))
            if not there and not EXAMPLE_PATH.search(one):
                yield match.start(), f"there is no {one}"


def missing_names(text, words, targets):
    """Code spans: make targets, environment variables and identifiers that nothing has."""
    for span in SPAN.finditer(FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)):
        inside = span[1]
        for target in re.findall(r"\bmake ([a-z-]+)", inside):
            if target not in targets:
                yield span.start(), f"`{inside}`: no target {target} in the Makefile"
        if re.fullmatch(IDENTIFIER, inside) and "*" not in inside:
            for word in re.findall(r"\w+", inside):
                if word not in words | EXAMPLES:
                    yield span.start(), f"`{inside}`: nothing is called {word}"
    for match in re.finditer(r"`([a-z]\w*-dev)`", text):
        if match[1] in read("cmake/debian_packages.cmake"):
            continue  # one that this project makes
        if not re.search(rf"[\s(]{match[1]}[\s)]", read("tools/install_deps.sh")):
            yield match.start(), f"tools/install_deps.sh does not install {match[1]}"
    for match in re.finditer(r"\bMOESAIC_[A-Z0-9_]*[A-Z0-9]\b", text):
        if match[0] not in words | EXAMPLES:
            yield match.start(), f"nothing reads {match[0]}"


def findings_in_document(path, words, targets):
    text, name = read(path), str(path)
    found = []
    for match in LINK.finditer(text):
        if not (ROOT / path.parent / match[1]).exists() and not match[1].endswith(".html"):
            found.append((match.start(), f"link to {match[1]}, which is not there"))
    if name not in HISTORY:
        found += [*missing_paths(text), *missing_names(text, words, targets)]
    for position, wrong in sorted(found):
        yield f"{path}:{text.count(chr(10), 0, position) + 1}: {wrong}"


def lists_said_twice():
    """Layers, limits and device tests, which prose and tables repeat."""
    agents, architecture, readme = read("AGENTS.md"), read("docs/architecture.md"), read("README.md")
    layers = re.search(r"Layers, top to bottom: (.*?)\.", agents)
    if re.findall(r"`(\w+)`", layers[1] if layers else "") != check_layers.LAYERS:
        yield "AGENTS.md: the layers are not check_layers.LAYERS"
    table = architecture.partition("## Layers")[2].partition("\n## ")[0]
    if re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) != check_layers.LAYERS:
        yield "docs/architecture.md: the layers of the table are not check_layers.LAYERS"
    for folder in ("src", "kernels"):
        told = re.findall(rf"^{folder}/(\w+)/ ", readme, re.MULTILINE)
        there = [p.name for p in (ROOT / folder).iterdir() if p.is_dir()]
        if sorted(told) != sorted(there):
            yield f"README.md: the tree lists {folder}/ as {sorted(told)}, there are {sorted(there)}"
    limits = (f"Files of at most {check_sizes.MAX_FILE} lines", f"host functions of at most {check_sizes.MAX_HOST}",
              f"device functions of at most {check_sizes.MAX_DEVICE}",
              f"tests/data holds at most {check_sizes.MAX_TEST_DATA_MB} MB")
    yield from (f"AGENTS.md: does not say {one!r}, which check_sizes holds" for one in limits if one not in agents)
    built = set(re.findall(r"(?:moesaic_test|add_executable)\((test_device\w*)", read("tests/kernels/CMakeLists.txt")))
    told = set(re.findall(r"^\| `(test_device\w*)` \|", agents, re.MULTILINE))
    if told != built:
        yield f"AGENTS.md: the table of device tests differs from tests/kernels by {sorted(told ^ built)}"


def main():
    words = words_of_the_code()
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    findings = [f for path in documents() for f in findings_in_document(path, words, targets)]
    sources = code_files("src", "kernels", "include", "tests", "bench", "examples")
    for path in sources:
        for number, line in enumerate(read(path).splitlines(), 1):
            comment = line[line.find("//") :] if "//" in line else ""
            findings += [f"{path}:{number}: {wrong}" for _, wrong in missing_paths(comment)]
    findings += lists_said_twice()
    finish("check_references", findings, len(documents()) + len(sources))


if __name__ == "__main__":
    main()
