#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A folder of src/ includes only itself and the layers below it; device text includes only device text; the CUDA
headers stay in the two folders that talk to CUDA. docs/architecture.md gives the reasons."""

import re

from source_tree import code_files, finish, read

LAYERS = ["cli", "capi", "checkpoint", "ops", "backend_cpu", "backend_cuda", "module", "plan", "tables", "base"]
CUDA_HEADERS = {"cuda.h": {"backend_cuda"}, "nvrtc.h": {"module"}}
C_HEADERS = {"dlpack/dlpack.h", "stddef.h", "stdint.h"}  # of the C interface
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def wrong_in_src(layer, quote, header):
    if header in CUDA_HEADERS:
        return None if layer in CUDA_HEADERS[header] else f"only {', '.join(CUDA_HEADERS[header])} may include it"
    if header.startswith("kernels/"):
        return None if header.startswith("kernels/abi/") else "host code includes kernels/abi/ and nothing else there"
    if quote == "<" or header.startswith("moesaic/"):
        return None
    folder = header.split("/")[0]
    if folder not in LAYERS:
        return "not a folder of src/; includes are written from src/"
    if LAYERS.index(folder) < LAYERS.index(layer):
        return f"{layer} lies below {folder}"
    return None


def wrong_in_kernels(path, quote, header):
    if header == "moesaic_config.h":
        return None
    if quote == "<" or not header.startswith("kernels/"):
        return "device text includes kernels/ and moesaic_config.h only: NVRTC has no include folder"
    if path.parts[1] == "abi" and not header.startswith("kernels/abi/"):
        return "kernels/abi includes only itself"
    family, other = path.parts[1], header.split("/")[1]
    if other not in ("abi", "common", family):
        return f"family {family} includes only itself, common and abi"
    return None


def wrong_in_public(path, quote, header):
    if path.name == "moesaic.h" and header in C_HEADERS:
        return None
    if header.startswith("moesaic/") or (quote == "<" and "/" not in header and "." not in header):
        return None
    return "public headers include the standard library and moesaic/ only; moesaic.h: DLPack, too"


def main():
    files = code_files("src", "kernels", "include")
    findings = []
    for path in files:
        for number, line in enumerate(read(path).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, header = match.groups()
            if path.parts[0] == "src":
                wrong = wrong_in_src(path.parts[1], quote, header)
            elif path.parts[0] == "kernels":
                wrong = wrong_in_kernels(path, quote, header)
            else:
                wrong = wrong_in_public(path, quote, header)
            if wrong:
                findings.append(f"{path}:{number}: includes {header}: {wrong}")
    finish("check_layers", findings, len(files))


if __name__ == "__main__":
    main()
