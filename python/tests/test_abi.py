# SPDX-License-Identifier: Apache-2.0
"""The ctypes binding is the header: sizes and offsets as a C compiler sees them, enumerators, functions."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess

import pytest

from moesaic import _abi
from support import ROOT

HEADER = (ROOT / "include/moesaic/moesaic.h").read_text()
TEXT = re.sub(r"//[^\n]*|/\*.*?\*/", "", HEADER, flags=re.DOTALL)
COMPILER = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or "cc"]
DLPACK = {"DLDevice": _abi.DLDevice, "DLDataType": _abi.DLDataType, "DLTensor": _abi.DLTensor,
          "DLManagedTensor": _abi.DLManagedTensor}


def fields_in_header(name):
    body = re.search(r"typedef struct %s \{(.*?)\} %s;" % (name, name), TEXT, re.DOTALL).group(1)
    return [field.strip(" *\n") for statement in body.split(";") if statement.strip()
            for field in re.sub(r"^\s*(?:const )?\w+(?: ?\*? ?const)?\*?(?=[ *])", "", statement).split(",")]


def test_every_field_of_every_struct_is_bound():
    for name, struct in _abi.STRUCTS.items():
        assert [field for field, _ in struct._fields_] == fields_in_header(name), name


def test_sizes_and_offsets_are_the_compilers(tmp_path):
    lines, wanted = [], []
    for name, struct in {**DLPACK, **_abi.STRUCTS}.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        wanted.append(f"{name} {ctypes.sizeof(struct)}")
        for field, kind in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), '
                         f'sizeof((({name}*)0)->{field}));')
            wanted.append(f"{name}.{field} {getattr(struct, field).offset} {ctypes.sizeof(kind)}")
    source, program = tmp_path / "layouts.c", tmp_path / "layouts"
    source.write_text('#include <stddef.h>\n#include <stdio.h>\n#include "moesaic/moesaic.h"\nint main(void) {\n' +
                      "\n".join(lines) + "\n}\n")
    subprocess.run([*COMPILER, "-std=c11", f"-I{ROOT / 'include'}", str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=True, text=True, stdout=subprocess.PIPE).stdout.split("\n")[:-1] == \
        wanted


ENUMS = {"activation": ("", _abi.ACTIVATIONS), "routing": ("", _abi.ROUTINGS),
         "gate_up_order": ("", _abi.GATE_UP_ORDERS), "reference_mode": ("", _abi.REFERENCE_MODES),
         "code_format": ("codes_", _abi.CODE_FORMATS), "scale_format": ("scales_", _abi.SCALE_FORMATS),
         "nibble_order": ("nibbles_", _abi.NIBBLE_ORDERS), "quant_format": ("", _abi.QUANT_FORMATS),
         "scale_layout": ("layout_", _abi.SCALE_LAYOUTS), "scale_major": ("scales_", _abi.SCALE_MAJORS),
         "e8m0_rounding": ("e8m0_", _abi.E8M0_ROUNDINGS)}


@pytest.mark.parametrize("name", ENUMS)
def test_enumerators(name):
    prefix, names = ENUMS[name]
    body = re.search(r"typedef enum moesaic_%s \{(.*?)\}" % name, TEXT, re.DOTALL).group(1)
    found = {int(number): word.lower()[len("moesaic_" + prefix):]
             for word, number in re.findall(r"(\w+) = (\d+)", body)}
    spelled = {"fp8_block_1x128": "fp8_1x128", "fp8_block_128x128": "fp8_128x128", "k_major": "k", "mn_major": "mn"}
    assert [spelled.get(found[i], found[i]) for i in range(len(found))] == list(names)


def test_statuses():
    found = {int(number): word for word, number in re.findall(r"MOESAIC_(\w+) = (\d+)",
             re.search(r"typedef enum moesaic_status \{(.*?)\}", TEXT, re.DOTALL).group(1))}
    assert {number: word.replace("_", "").lower() for number, word in found.items() if number} == {
        number: kind.__name__[:-len("Error")].lower() for number, kind in _abi.BY_STATUS.items()}
    assert re.search(r"^#define MOESAIC_ABI_VERSION (\d+)$", HEADER, re.MULTILINE).group(1) == str(_abi.ABI_VERSION)


def as_ctypes(declared):
    """The ctypes of a parameter of the header."""
    words = [word for word in re.sub(r"\*", " * ", declared).split() if word != "const"]
    if "*" not in words:
        words.pop()  # the name
    elif words[-1] != "*":
        words.pop()
    base, stars = words[0], words.count("*")
    plain = {"size_t": ctypes.c_size_t, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64,
             "uint32_t": ctypes.c_uint32, **DLPACK, **_abi.STRUCTS}
    if base in ("void", "char"):
        kind, stars = (ctypes.c_void_p if base == "void" else ctypes.c_char_p), stars - 1
    elif base in plain:
        kind = plain[base]
    else:  # a handle
        kind, stars = _abi.HANDLE, stars - 1
    for _ in range(stars):
        kind = ctypes.POINTER(kind)
    return kind


def test_functions_have_the_headers_parameters():
    declared = {name: (result, parameters) for result, name, parameters in
                re.findall(r"^(\w[\w ]*?\*?) ?(moesaic_\w+)\(([^)]*)\);", TEXT, re.MULTILINE)}
    bound = {**{name: (ctypes.c_int32, arguments) for name, arguments in _abi.FUNCTIONS.items()}, **_abi.QUESTIONS}
    for name, (result, arguments) in bound.items():
        returned, parameters = declared[name]
        wanted = [] if parameters == "void" else [as_ctypes(p) for p in parameters.split(",")]
        assert list(arguments) == wanted, name
        assert (returned == "moesaic_status") == (name in _abi.FUNCTIONS), name
        assert result == {"moesaic_status": ctypes.c_int32, "void": None, "uint32_t": ctypes.c_uint32,
                          "const char*": ctypes.c_char_p, "void*": ctypes.c_void_p}[returned], name


def test_functions_of_the_header_are_bound_or_listed():
    without_binding = {"moesaic_status_name", "moesaic_set_log_callback", "moesaic_router_kernels",
                       "moesaic_quantizer_swizzle", "moesaic_quantizer_unswizzle"}
    declared = set(re.findall(r"\b(moesaic_\w+)\(", TEXT))
    left = declared - set(_abi.FUNCTIONS) - set(_abi.QUESTIONS)
    assert {name for name in left if "activation" not in name} == without_binding
