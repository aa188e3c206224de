# SPDX-License-Identifier: Apache-2.0
"""The `moesaic` executable beside this file: the command of that name, and compiling ahead of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from ._abi import PACKAGE_FOLDER
from ._errors import CompileError, InvalidArgumentError

EXECUTABLE: str = os.path.join(PACKAGE_FOLDER, "moesaic")


def main() -> None:
    """The console command: becomes the executable."""
    os.execv(EXECUTABLE, [EXECUTABLE, *sys.argv[1:]])


def _joined(values: str | Iterable[Any]) -> str:
    return values if isinstance(values, str) else ",".join(str(value) for value in values)


def compile(arch: str | Iterable[Any] = "native", *, recipe: str | Iterable[str] | None = None,
            op: str | Iterable[str] | None = None, model: str | None = None,
            out: str | os.PathLike[str] | None = None, ptx: bool = False, jobs: int | None = None) -> dict[str, Any]:
    """Compiles kernels ahead of time, into the cache, or into the bundle `out` for ModuleOptions.bundles.

    arch: "90", "sm_90a", "all", "native" or several; recipe, op: all by default; model: leave out kernels that cannot
    serve it. In a process of its own (``moesaic compile``), whose report is the result: kernels, compiled, seconds,
    bytes, skipped, ... Raises CompileError with its message."""
    command = [EXECUTABLE, "compile", "--json", "--arch", _joined(arch)]
    for option, value in (("--recipe", recipe), ("--op", op)):
        if value is not None:
            command += [option, _joined(value)]
    for option, text in (("--model", model), ("--out", None if out is None else os.fspath(out)), ("--jobs", jobs)):
        if text is not None:
            command += [option, str(text)]
    done = subprocess.run(command + ["--ptx"] * ptx, text=True, capture_output=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("moesaic: error: ")]
        kind = InvalidArgumentError if done.returncode == 2 else CompileError
        raise kind("; ".join(line[len("moesaic: error: "):] for line in lines) or done.stderr or
                   f"compile: the process ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
