# SPDX-License-Identifier: Apache-2.0
"""The library's failures as exceptions: one class for each kind, the text is the library's own."""

from __future__ import annotations


class Error(RuntimeError):
    """Any failure of the library. The text says operation, argument, got, wanted, and what would work."""


class InvalidArgumentError(Error, ValueError):
    """The caller's input is wrong."""


class UnsupportedError(Error, NotImplementedError):
    """Legal input that nothing here can serve."""


class CompileError(Error):
    """A kernel did not compile, or compiled to something that must not ship."""


class CudaError(Error):
    """The CUDA driver refused a call."""


class IoError(Error, OSError):
    """A file or folder could not be read or written, or its content is damaged."""


class InternalError(Error):
    """A defect of the library, or memory ran out."""


# By moesaic_status.
BY_STATUS: dict[int, type[Error]] = {
    1: InvalidArgumentError,
    2: UnsupportedError,
    3: CompileError,
    4: CudaError,
    5: IoError,
    6: InternalError,
}
