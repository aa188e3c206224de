# SPDX-License-Identifier: Apache-2.0
"""Tensors of libraries: numpy, ml_dtypes, DLPack producers, buffers; memory that the library gives; the command."""

import array
import gc
import pathlib
import subprocess
import sys
import weakref

import numpy as np
import pytest

import moesaic
from moesaic import _tensor
from support import to_bf16


class Producer:
    """A library that has DLPack and nothing else."""

    def __init__(self, source):
        self.source, self.asked = source, []

    def __dlpack_device__(self):
        return self.source.__dlpack_device__()

    def __dlpack__(self, **arguments):
        self.asked.append(arguments)
        return self.source.__dlpack__()


def test_a_dlpack_producer_is_read_and_let_go():
    logits = np.random.default_rng().standard_normal((6, 8)).astype(np.float32)
    producer = Producer(logits)
    got = moesaic.route(producer, 2)
    wanted = moesaic.route(logits, 2)
    assert producer.asked and isinstance(got.ids, np.ndarray)
    assert np.array_equal(got.ids, wanted.ids) and np.array_equal(got.weights, wanted.weights)
    gone = weakref.ref(producer)
    del producer
    gc.collect()
    assert gone() is None


def test_strides_of_a_producer_count():
    wide = np.random.default_rng().standard_normal((6, 16)).astype(np.float32)
    seen = _tensor.as_view(Producer(wide[:, ::2]))
    assert seen.shape == (6, 8) and [seen.tensor.strides[i] for i in range(2)] == [16, 2]
    with pytest.raises(moesaic.InvalidArgumentError, match="stride 2 in dimension 1"):
        moesaic.route(Producer(wide[:, ::2]), 2)


def test_buffers_are_read():
    numbers = array.array("f", range(8))
    seen = _tensor.as_view(numbers)
    assert (seen.shape, seen.dtype.name, seen.device.device_type) == ((8,), "f32", 1)
    assert seen.tensor.data == numbers.buffer_info()[0]
    matrix = memoryview(bytes(range(12))).cast("B", (3, 4))
    assert _tensor.as_view(matrix).shape == (3, 4)
    with pytest.raises(moesaic.InvalidArgumentError, match="a tensor is int, wanted a torch tensor, a numpy array"):
        _tensor.as_view(3)


def test_view_gives_other_types_of_one_size():
    bits = to_bf16(np.ones((2, 3)))
    seen = _tensor.as_view(moesaic.view(bits, "bfloat16"))
    assert (seen.dtype.name, seen.tensor.dtype.code, seen.tensor.data) == ("bf16", 4, bits.ctypes.data)
    with pytest.raises(moesaic.InvalidArgumentError, match="wanted ones of 8 bits for e4m3"):
        moesaic.view(bits, "e4m3")
    with pytest.raises(moesaic.InvalidArgumentError, match="dtype is bf17, wanted one of"):
        moesaic.view(bits, "bf17")


def test_ml_dtypes_keep_their_types():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = np.random.default_rng().standard_normal((4, 64)).astype(ml_dtypes.bfloat16)
    w = np.random.default_rng().standard_normal((8, 64)).astype(ml_dtypes.bfloat16)
    y = moesaic.gemm(x, w)
    assert y.dtype == ml_dtypes.bfloat16
    assert np.allclose(y.astype(np.float32), x.astype(np.float32) @ w.astype(np.float32).T, rtol=0.02, atol=0.1)
    codes = moesaic.quantize(x, "fp8_row")
    typed = moesaic.Quantized("fp8_row", codes.shape, codes.codes.view(ml_dtypes.float8_e4m3fn), codes.scales)
    assert np.array_equal(moesaic.dequantize(typed), moesaic.dequantize(codes))


def test_arrays_of_the_library_go_to_others_and_live_as_long():
    made = moesaic.Array((3, 4), "f32")
    made.memoryview().cast("B").cast("f")[:] = array.array("f", range(12))
    assert (made.shape, made.dtype, made.device) == ((3, 4), "f32", "cpu")
    taken = np.from_dlpack(made)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is not None and taken.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    del taken
    gc.collect()
    assert gone() is None and not _tensor._exported


def test_a_capsule_that_nobody_takes_is_freed():
    made = moesaic.Array((2,), "f32")
    capsule = made.__dlpack__()
    assert _tensor._exported
    del capsule
    assert not _tensor._exported


def test_memory_is_aligned_and_shared_by_calls():
    made = _tensor.workspace(_tensor.device_of("cpu"), None, 1000)
    assert made.data % 256 == 0 and _tensor.workspace(_tensor.device_of("cpu"), None, 10) is made
    assert _tensor.workspace(_tensor.device_of("cpu"), None, made.size + 1) is not made
    moesaic.release_workspaces()
    assert not _tensor._workspaces.held


def test_without_numpy_and_torch():
    """A layer of bytes in a process where neither can be imported."""
    folder = pathlib.Path(moesaic.__file__).parents[1]
    program = """
import sys
sys.modules["numpy"] = sys.modules["torch"] = None
import array, moesaic
layer = moesaic.from_checkpoint(sys.argv[1], max_tokens=8)
hidden = layer.config.hidden
x = memoryview(array.array("H", [0x3F80, 0xBF00] * (hidden // 2) * 3)).cast("B").cast("H", (3, hidden))
y = layer(x, dtype="bf16", out_dtype="f32")
rows = y.memoryview().tolist()
assert type(y) is moesaic.Array and rows[0] == rows[2] and any(rows[0]), rows
print(y.shape, y.dtype)
"""
    from support import DATA
    done = subprocess.run([sys.executable, "-c", program, str(DATA / "checkpoints/mixtral")], text=True, check=False,
                          env={"PYTHONPATH": str(folder)}, capture_output=True)
    assert done.stdout == "(3, 160) f32\n", done.stderr


def test_gradients_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    logits = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(moesaic.InvalidArgumentError, match="no_grad"):
        moesaic.route(logits, 2)
    with torch.no_grad():
        assert moesaic.route(logits, 2).ids.shape == (3, 2)


def run_command(*arguments):
    return subprocess.run([sys.executable, "-m", "moesaic", *arguments], text=True, capture_output=True, check=False)


def test_the_command_is_the_executable():
    assert run_command("--version").stdout == f"moesaic {moesaic.__version__}\n"
    wrong = run_command("nonsense")
    assert wrong.returncode == 2 and wrong.stderr.startswith("moesaic: error: ")


def test_compile_refuses_with_the_commands_message():
    with pytest.raises(moesaic.Error, match="999"):
        moesaic.compile("999")
    with pytest.raises(moesaic.Error, match="no_such_recipe"):
        moesaic.compile("90", recipe="no_such_recipe")
