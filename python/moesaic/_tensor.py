# SPDX-License-Identifier: Apache-2.0
"""Tensors of any library as DLTensor views, results in the library of the input, streams, and memory for both.

Read are: torch tensors; numpy arrays, those of ml_dtypes, too; whatever has __dlpack__ or the buffer protocol; and what
`view` made of one of these. Nothing is copied or converted: a type, shape or device that does not fit is refused."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import _abi
from ._abi import DLDataType, DLDevice, DLManagedTensor, DLTensor
from ._errors import InvalidArgumentError

# DLDeviceType
CPU: int = 1
CUDA: int = 2
CUDA_HOST: int = 3
NO_GRADIENTS = ("a tensor requires gradients, wanted one that does not: moesaic computes none; call it under "
                "torch.no_grad()")


class DType(NamedTuple):
    """An element type: the library's name, DLPack's numbers, and what other libraries call it."""

    name: str
    code: int
    bits: int
    numpy: str  # as numpy names it; what numpy lacks is stored in the unsigned type of that size
    torch: str
    ml: bool = False  # numpy has it with ml_dtypes only


_TYPES = (
    DType("f64", 2, 64, "float64", "float64"),
    DType("f32", 2, 32, "float32", "float32"),
    DType("f16", 2, 16, "float16", "float16"),
    DType("bf16", 4, 16, "bfloat16", "bfloat16", True),
    DType("i64", 0, 64, "int64", "int64"),
    DType("i32", 0, 32, "int32", "int32"),
    DType("u8", 1, 8, "uint8", "uint8"),
    DType("u16", 1, 16, "uint16", "uint16"),
    DType("e4m3", 10, 8, "float8_e4m3fn", "float8_e4m3fn", True),
    DType("e5m2", 12, 8, "float8_e5m2", "float8_e5m2", True),
    DType("e8m0", 14, 8, "float8_e8m0fnu", "float8_e8m0fnu", True),
    DType("e2m1x2", 17, 8, "float4_e2m1fn_x2", "float4_e2m1fn_x2", True),  # two to a byte
)
_BY_NAME = {name: t for t in _TYPES for name in (t.name, t.numpy)}
_BUFFER_FORMATS = {"d": "f64", "f": "f32", "e": "f16", "q": "i64", "l": "i64", "i": "i32", "B": "u8", "H": "u16",
                   "c": "u8"}


def dtype_of(dtype: Any) -> DType:
    """The type of a name ("bf16", "bfloat16"), of a numpy or ml_dtypes type, or of a torch.dtype."""
    name = str(dtype if isinstance(dtype, str) else
               getattr(dtype, "name", None) or getattr(dtype, "__name__", str(dtype)))
    found = _BY_NAME.get(name.rpartition("torch.")[2])
    if found is None:
        raise InvalidArgumentError(f"dtype is {name}, wanted one of {', '.join(t.name for t in _TYPES)}")
    return found


def device_of(device: Any) -> DLDevice:
    """"cpu", "cuda", "cuda:N", or what prints like that (torch.device)."""
    kind, colon, index = str(device).partition(":")
    if kind == "cpu" and (not colon or index == "0"):
        return DLDevice(CPU, 0)
    if kind == "cuda" and (not colon or index.isdigit()):
        return DLDevice(CUDA, int(index or 0))
    raise InvalidArgumentError(f"device is {device}, wanted cpu, cuda or cuda:N")


def device_name(device: DLDevice) -> str:
    """ "cpu" or "cuda:N"."""
    return "cpu" if device.device_type in (CPU, CUDA_HOST) else f"cuda:{device.device_id}"


def torch_module() -> Any:
    """torch where the program has imported it, else None: no tensor can be its own then."""
    return sys.modules.get("torch")


def is_torch(value: Any) -> bool:
    torch = torch_module()
    return torch is not None and isinstance(value, torch.Tensor)


class View(NamedTuple):
    """A tensor as the library sees it. `source` keeps the memory; `kind`: torch, numpy or other."""

    tensor: DLTensor
    shape: tuple[int, ...]
    dtype: DType
    device: DLDevice
    kind: str
    source: Any


class Typed:
    """What `view` returns: an array whose elements are of another type than its library can say."""

    def __init__(self, source: Any, dtype: DType) -> None:
        self.source, self.dtype = source, dtype


def view(array: Any, dtype: Any) -> Typed:
    """The array with its elements read as `dtype`, without a copy: numpy has no bf16, so that
    ``view(bits, "bf16")`` of an uint16 array is how it comes to the library. Types of one size only."""
    given = as_view(array)
    wanted = dtype_of(dtype)
    if given.dtype.bits != wanted.bits:
        raise InvalidArgumentError(f"view: the array's elements are {given.dtype.name}, wanted ones of {wanted.bits} "
                                   f"bits for {wanted.name}")
    return Typed(array, wanted)


_TORCH_TYPES: dict[Any, DType] = {}


def _torch_type(dtype: Any) -> DType:
    known = _TORCH_TYPES.get(dtype)
    if known is None:
        known = _TORCH_TYPES[dtype] = dtype_of(dtype)
    return known


def _make(data: int | None, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: DType, device: DLDevice,
          kind: str, source: Any) -> View:
    rank = len(shape)
    extents = ctypes.c_int64 * max(rank, 1)
    bits, lanes = (4, 2) if dtype.code == 17 else (dtype.bits, 1)
    tensor = DLTensor(data, device, rank, DLDataType(dtype.code, bits, lanes), extents(*shape),
                      extents(*strides) if strides is not None else None, 0)
    return View(tensor, shape, dtype, device, kind, source)


def _of_torch(t: Any) -> View:
    torch = torch_module()
    if t.requires_grad and torch.is_grad_enabled():
        raise InvalidArgumentError(NO_GRADIENTS)
    device = t.device
    where = DLDevice(CPU, 0) if device.type == "cpu" else DLDevice(CUDA, device.index or 0)
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgumentError(f"a tensor is on {device}, wanted cpu or cuda")
    return _make(t.data_ptr() or None, tuple(t.shape), None if t.is_contiguous() else t.stride(),
                 _torch_type(t.dtype), where, "torch", t)


def _of_numpy(a: Any) -> View:
    dtype = dtype_of(a.dtype)
    facts = a.__array_interface__
    if a.dtype.byteorder == ">":
        raise InvalidArgumentError("an array is big-endian, wanted the machine's own order")
    strides, item = facts["strides"], a.dtype.itemsize
    if strides is not None:
        if any(s % item for s in strides):
            raise InvalidArgumentError(f"an array has strides of {strides} bytes, wanted multiples of {item}")
        strides = tuple(s // item for s in strides)
    return _make(facts["data"][0] or None, a.shape, strides, dtype, DLDevice(CPU, 0), "numpy", a)


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _of_dlpack(value: Any, stream: int | None) -> View:
    device = value.__dlpack_device__()
    # A producer's stream protocol: 1 is the default stream; there is nothing to wait for on the CPU.
    capsule = value.__dlpack__(stream=stream or 1) if int(device[0]) == CUDA else value.__dlpack__()
    # The capsule is not consumed: while it lives so does the tensor, and its own destructor ends both.
    pointer = _capsule_pointer(capsule, b"dltensor")
    tensor = DLTensor.from_address(pointer)
    for dtype in _TYPES:
        if (dtype.code, dtype.bits, 1) == (tensor.dtype.code, tensor.dtype.bits * tensor.dtype.lanes, 1):
            break
    else:
        raise InvalidArgumentError(f"a tensor has DLPack type {tensor.dtype.code} of {tensor.dtype.bits} bits x "
                                   f"{tensor.dtype.lanes}, wanted one of {', '.join(t.name for t in _TYPES)}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    where = DLDevice(tensor.device.device_type, tensor.device.device_id)
    return View(tensor, shape, dtype, where, "other", (capsule, value))


def _of_buffer(value: Any) -> View:
    buffer = memoryview(value)
    name = _BUFFER_FORMATS.get(buffer.format.lstrip("@=<"))
    if name is None or not buffer.c_contiguous:
        raise InvalidArgumentError(f"a buffer has format '{buffer.format}' and strides {buffer.strides}, wanted a "
                                   f"compact one of formats {', '.join(_BUFFER_FORMATS)}")
    if buffer.readonly:  # ctypes finds the address of writable buffers only
        holder: Any = ctypes.create_string_buffer(buffer.tobytes(), max(buffer.nbytes, 1))
    else:
        holder = (ctypes.c_char * buffer.nbytes).from_buffer(value)
    return _make(ctypes.addressof(holder) if buffer.nbytes else None, tuple(buffer.shape or ()), None, _BY_NAME[name],
                 DLDevice(CPU, 0), "numpy", (holder, value))


def as_view(value: Any, stream: int | None = None) -> View:
    """A tensor of any library. `stream`: the one that the tensor's producer shall order its work before."""
    if is_torch(value):
        return _of_torch(value)
    if isinstance(value, Typed):
        inner = as_view(value.source, stream)
        tensor = DLTensor.from_buffer_copy(inner.tensor)
        lanes = 2 if value.dtype.code == 17 else 1
        tensor.dtype = DLDataType(value.dtype.code, value.dtype.bits // lanes, lanes)
        return inner._replace(tensor=tensor, dtype=value.dtype, source=inner)
    if hasattr(value, "__array_interface__") and hasattr(value, "dtype"):
        return _of_numpy(value)
    if hasattr(value, "__dlpack__"):
        return _of_dlpack(value, stream)
    try:
        return _of_buffer(value)
    except TypeError:
        raise InvalidArgumentError(f"a tensor is {type(value).__name__}, wanted a torch tensor, a numpy array, or what "
                                   "has __dlpack__ or the buffer protocol") from None


class Slot:
    """A DLTensor that one call after the other fills with a torch tensor of one device: what makes up a hot path."""

    def __init__(self, device: DLDevice) -> None:
        self._extents = (ctypes.c_int64 * 4)()
        self._tensor = DLTensor(None, device, 0, DLDataType(), ctypes.cast(self._extents, _abi.EXTENTS), None, 0)
        self._shape: Any = None
        self._dtype: Any = None
        self.pointer: Any = ctypes.pointer(self._tensor)

    def fill(self, t: Any, device: Any) -> bool:
        """False for what `as_view` must look at: other devices, strides, gradients."""
        if t.device != device or not t.is_contiguous() or t.requires_grad or t.dim() > 4:
            return False
        if t.shape != self._shape:
            self._shape = shape = t.shape
            self._tensor.ndim = len(shape)
            self._extents[:len(shape)] = shape
        if t.dtype is not self._dtype:
            made = _torch_type(t.dtype)
            if made.code == 17:
                return False
            self._tensor.dtype = DLDataType(made.code, made.bits, 1)
            self._dtype = t.dtype
        self._tensor.data = t.data_ptr()
        return True


class Tensors:
    """The views of one call, which live as long as it does."""

    def __init__(self, stream: int | None = None) -> None:
        self._stream = stream
        self._kept: list[Any] = []
        self.device = "cpu"  # of the tensor that came last

    def pointer(self, value: Any) -> Any:
        """DLTensor* of a tensor; NULL for None."""
        if value is None:
            return None
        made = value if isinstance(value, View) else as_view(value, self._stream)
        self._kept.append(made)
        self.device = device_name(made.device)
        return ctypes.pointer(made.tensor)

    def keep(self, value: Any) -> Any:
        self._kept.append(value)
        return value


# --- memory ---------------------------------------------------------------------------------------------------------


class Memory:
    """Bytes on a device at a multiple of 256: torch's, where it is there, else the library's own."""

    def __init__(self, device: DLDevice, size: int) -> None:
        self.device: DLDevice = device
        self.size: int = size
        self.data: Any
        torch = torch_module() if device.device_type == CUDA else None
        if torch is not None and (torch.cuda.is_initialized() or torch.cuda.is_available()):
            self._owner: Any = torch.empty(size, dtype=torch.uint8, device=device_name(device))
            self.data = self._owner.data_ptr()
        else:
            self._owner = _abi.Handle("moesaic_memory_destroy", "moesaic_memory_create", device, size)
            self.data = _abi.lib.moesaic_memory_data(self._owner.value)


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_exported: dict[int, Any] = {}


def _forget(managed: int) -> None:
    _exported.pop(managed, None)


_delete_exported = _DELETER(_forget)


_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype, _capsule_is_valid.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
# Of a capsule that dies: an address, since an object would be given a reference again.
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def _end_capsule(capsule: int) -> None:
    if _capsule_is_valid(capsule, b"dltensor"):  # else a consumer renamed it and calls the deleter itself
        _forget(_dying_pointer(capsule, b"dltensor"))


_destroy_capsule = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_end_capsule)


_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype, _capsule_new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Array:
    """A result where neither torch nor numpy is in play: memory of the library that other libraries take by DLPack
    (``cupy.from_dlpack(array)``), and on the CPU by `memoryview`. Work on a GPU is enqueued, not done."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, device: Any = "cpu") -> None:
        self.shape, self._dtype = tuple(shape), dtype_of(dtype)
        self._device = device if isinstance(device, DLDevice) else device_of(device)
        count = 1
        for extent in self.shape:
            count *= extent
        self._memory = Memory(self._device, count * self._dtype.bits // 8)

    @property
    def dtype(self) -> str:
        """The library's name of the element type."""
        return self._dtype.name

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return device_name(self._device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.device_type, self._device.device_id

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        if self._device.device_type == CUDA and stream != -1:
            _abi.call("moesaic_synchronize", self._device)
        made = _make(self._memory.data, self.shape, None, self._dtype, self._device, "other", self)
        managed = DLManagedTensor(made.tensor, None, ctypes.cast(_delete_exported, ctypes.c_void_p).value)
        address = ctypes.addressof(managed)
        _exported[address] = (managed, made)
        return _capsule_new(address, b"dltensor", ctypes.cast(_destroy_capsule, ctypes.c_void_p))

    def memoryview(self) -> Any:
        """The bytes on the CPU, with the shape for types that the buffer protocol has."""
        if self._device.device_type != CPU:
            raise InvalidArgumentError(f"memoryview: the array is on {self.device}, wanted one on the cpu")
        holder = (ctypes.c_char * self._memory.size).from_address(self._memory.data)
        holder.owner = self  # type: ignore[attr-defined]
        flat: Any = memoryview(holder).cast("B")
        name = self._dtype.name if not self._dtype.ml else {8: "u8", 16: "u16"}[self._dtype.bits]
        form = next(f for f, n in _BUFFER_FORMATS.items() if n == name)
        return flat.cast(form, self.shape) if self.shape and 0 not in self.shape else flat.cast(form)


def allocate(like: View, shape: tuple[int, ...], dtype: DType) -> Any:
    """An uninitialised tensor on the device of `like`, in its library; bf16 and codes of numpy as `like` has them."""
    if like.kind == "torch":
        torch = torch_module()
        return torch.empty(shape, dtype=getattr(torch, dtype.torch), device=like.source.device)
    if device_name(like.device) == "cpu":
        try:
            import numpy
        except ImportError:
            return Array(shape, dtype.name)
        if not dtype.ml:
            return numpy.empty(shape, dtype.numpy)
        own = getattr(like.source, "dtype", None)
        if own is not None and dtype_of(own).ml:
            import ml_dtypes
            return numpy.empty(shape, getattr(ml_dtypes, dtype.numpy))
        return Typed(numpy.empty(shape, f"uint{dtype.bits}"), dtype)
    return Array(shape, dtype.name, like.device)


def bare(value: Any) -> Any:
    """What a caller gets: bits that no type of its library names come as plain integers."""
    return value.source if isinstance(value, Typed) else value


# --- streams --------------------------------------------------------------------------------------------------------


def stream_of(device: DLDevice, stream: Any = None) -> int | None:
    """CUstream as a number: of what the caller gave (an int, or a stream of torch or CuPy), else torch's current one,
    else the default stream, 0. None on the CPU."""
    if device.device_type != CUDA:
        return None
    if stream is not None:
        value = stream if isinstance(stream, int) else getattr(stream, "cuda_stream", getattr(stream, "ptr", None))
        if value is None:
            raise InvalidArgumentError(f"stream is {type(stream).__name__}, wanted a number, or a stream of torch or "
                                       "CuPy")
        return int(value)
    torch = torch_module()
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.current_stream(device.device_id).cuda_stream)


def on_stream(device: DLDevice, stream: int | None) -> Any:
    """Makes torch allocate for that stream, where it is there and another one is current."""
    torch = torch_module()
    if stream is None or torch is None or not torch.cuda.is_initialized():
        return contextlib.nullcontext()
    if torch.cuda.current_stream(device.device_id).cuda_stream == stream:
        return contextlib.nullcontext()
    if stream == 0:
        return torch.cuda.stream(torch.cuda.default_stream(device.device_id))
    return torch.cuda.stream(torch.cuda.ExternalStream(stream, device=device.device_id))


class _Workspaces(threading.local):
    """One memory for each device and stream of a thread: what is enqueued there runs one after the other, so all ops
    share it. Threads do not: their launches on one stream may interleave."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int, int | None], Memory] = {}
        self.lent = True  # False: each call has its own


_workspaces = _Workspaces()


@contextlib.contextmanager
def own_workspaces() -> Iterator[None]:
    """Calls of torch.compile's graphs: what these keep of their memory pools is theirs to decide."""
    before, _workspaces.lent = _workspaces.lent, False
    try:
        yield
    finally:
        _workspaces.lent = before


def workspace(device: DLDevice, stream: int | None, size: int) -> Memory:
    """Memory of at least `size` bytes that the caller's ops on the stream may use until the next call."""
    if device.device_type == CUDA:
        torch = torch_module()
        # In a capture it is of the graph's own pool: its replays may overlap with this stream's work.
        if torch is not None and torch.cuda.is_initialized() and (
                not _workspaces.lent or torch.cuda.is_current_stream_capturing()):
            return Memory(device, size)
    key = (device.device_type, device.device_id, stream)
    held = _workspaces.held.get(key)
    if held is None or held.size < size:
        if held is not None and isinstance(held._owner, _abi.Handle):
            _abi.call("moesaic_synchronize", device)
        with on_stream(device, stream):
            held = _workspaces.held[key] = Memory(device, size)
    return held


def compiling(value: Any) -> bool:
    """True while torch.compile traces a call on a torch tensor."""
    if not is_torch(value):
        return False
    import torch
    if not torch.compiler.is_compiling():
        return False
    if value.requires_grad and torch.is_grad_enabled():
        raise InvalidArgumentError(NO_GRADIENTS)
    return True


def release_workspaces() -> None:
    """Frees the memory that this thread's calls share; work that uses it must be done."""
    _workspaces.held.clear()
