# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU: every recipe against the CPU backend, quantisers byte by byte, streams, CUDA graphs, torch.compile.
Run it with the wheel installed, or with the folder `python` of a build on PYTHONPATH:
python3 -m pytest python/tests/test_torch_gpu.py"""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

import moesaic  # noqa: E402
from support import DATA, Layer, near_reference, read_safetensors, to_bf16, worst_row  # noqa: E402

BF16 = 6e-3
RECIPES = ["bf16", "fp16", "fp8_tensor", "fp8_channel", "fp8_block", "mxfp8", "mxfp8_mxfp4", "fp8_mxfp4", "bf16_mxfp4",
           "nvfp4", "bf16_nvfp4", "bf16_int4", "fp8_int4"]


def cuda(bits):
    return torch.from_numpy(np.array(bits).view(np.int16)).view(torch.bfloat16).cuda()


def config_of(layer, **fields):
    return moesaic.MoeConfig(**{**layer.shape, "max_tokens": 512, "device": "cuda", **fields})


def host_weights(layer):
    return moesaic.Weights(**{name: moesaic.view(getattr(layer, "bits_" + name), "bf16")
                              for name in ("w13", "w2", "router")})


@pytest.fixture(name="layer")
def fixture_layer():
    return Layer(tokens=33, hidden=256, inner=128, experts=8)


@pytest.fixture(autouse=True)
def fixture_fresh_compiler():
    torch._dynamo.reset()


def test_layer_with_its_own_router(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    y = made(cuda(layer.bits_x))
    assert y.dtype == torch.bfloat16 and y.is_cuda and made.device == "cuda:0"
    assert worst_row(y.float().cpu().numpy(), layer.wanted()) < BF16
    on_device = moesaic.Weights(w13=cuda(layer.bits_w13), w2=cuda(layer.bits_w2), router=cuda(layer.bits_router))
    assert on_device.device == "cuda:0"
    assert torch.equal(moesaic.FusedMoe(config_of(layer), on_device)(cuda(layer.bits_x)), y)
    with pytest.raises(moesaic.InvalidArgumentError, match="on cpu, wanted on cuda:0"):
        made(cuda(layer.bits_x).cpu())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_every_recipe_against_the_cpu(recipe, tokens):
    layer = Layer(tokens=max(tokens, 7), hidden=256, inner=128, experts=8)  # one token: seven calls
    config = config_of(layer, recipe=recipe)
    weights = host_weights(layer).convert(config)
    x = torch.from_numpy(layer.x).to(torch.float16 if recipe == "fp16" else torch.bfloat16)
    logits = torch.from_numpy(layer.logits.astype(np.float32))
    on_cpu = moesaic.FusedMoe(dataclasses.replace(config, device="cpu"), weights)
    on_gpu = moesaic.FusedMoe(config, weights)
    wanted = on_cpu(x, router_logits=logits, out_dtype="f32")
    calls = [on_gpu(x[at:at + tokens].cuda(), router_logits=logits[at:at + tokens].cuda(), out_dtype="f32")
             for at in range(0, len(x), tokens)]
    got = torch.cat(calls)
    assert near_reference(got.cpu().numpy(), wanted.numpy()), on_gpu.kernels(tokens)


@pytest.mark.parametrize("fmt", ["nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_tensor", "fp8_row",
                                 "fp8_1x128", "fp8_128x128", "int4"])
def test_quantisers_give_the_cpus_bytes(fmt):
    x = torch.randn(150, 384).bfloat16()
    extra = {"global_scale": torch.tensor([100.0])} if fmt == "nvfp4" else {}
    wanted = moesaic.quantize(x, fmt, **extra)
    got = moesaic.quantize(x.cuda(), fmt, **{name: value.cuda() for name, value in extra.items()})
    assert torch.equal(got.codes.cpu(), wanted.codes) and torch.equal(got.scales.cpu(), wanted.scales)
    assert torch.equal(moesaic.dequantize(got).cpu(), moesaic.dequantize(wanted))


@pytest.mark.parametrize("method", ["softmax_topk", "softmax_topk_renorm", "topk_softmax", "llama4", "sigmoid"])
def test_routing_is_the_cpus(method):
    logits = torch.randn(90, 32)
    wanted, got = (moesaic.route(t, 4, method=method, rows=True) for t in (logits, logits.cuda()))
    assert torch.equal(got.ids.cpu(), wanted.ids) and torch.allclose(got.weights.cpu(), wanted.weights, rtol=1e-5)
    for name in ("row_offsets", "row_token", "slot_row"):
        assert torch.equal(getattr(got, name).cpu(), getattr(wanted, name)), name


def test_products():
    x, w = torch.randn(40, 256).bfloat16().cuda(), (torch.randn(3, 64, 256) / 16).bfloat16().cuda()
    y = moesaic.gemm(x, w[0], out_dtype="f32")
    assert worst_row(y.cpu(), (x.double() @ w[0].double().T).cpu()) < 1e-4
    offsets = torch.tensor([0, 15, 15, 40], dtype=torch.int32, device="cuda")
    y = moesaic.grouped_gemm(x, moesaic.Gemm(w), offsets=offsets, out_dtype="f32")
    wanted = torch.cat([x[:15].double() @ w[0].double().T, x[15:].double() @ w[2].double().T])
    assert worst_row(y.cpu(), wanted.cpu()) < 1e-4
    q = moesaic.quantize(w[1], "mxfp4")
    y = moesaic.gemm(x, q, recipe="bf16_mxfp4", out_dtype="f32")
    assert worst_row(y.cpu(), (x.double() @ moesaic.dequantize(q).double().T).cpu()) < 1e-4
    q = moesaic.quantize(w[1], "int4", group_size=64, zero_points=True)
    y = moesaic.gemm(x, q, recipe="bf16_int4", int4_group_size=64, int4_zero_points=True, out_dtype="f32")
    assert worst_row(y.cpu(), (x.double() @ moesaic.dequantize(q).double().T).cpu()) < 1e-4


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss_mxfp4", "qwen3_moe_nvfp4"])
def test_checkpoints_give_what_was_recorded(name):
    stored = read_safetensors(DATA / "checkpoints" / name / "io.safetensors")
    layer = moesaic.from_checkpoint(DATA / "checkpoints" / name, device="cuda:0", max_tokens=64)
    y = layer(cuda(to_bf16(stored["x"])), out_dtype="f32")
    assert worst_row(y.cpu(), stored["y"]) < {"nvfp4": 0.3}.get(layer.config.recipe, BF16)


def test_prepared_files_and_one_expert(layer, tmp_path):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    x = cuda(layer.bits_x)
    before = made(x)
    made.save_prepared(tmp_path / "prepared")
    gate, up, down = (cuda(layer.bits_w13[0, :128]), cuda(layer.bits_w13[0, 128:]), cuda(layer.bits_w2[0]))
    made.prepare_expert(1, moesaic.Expert(gate, up, down))
    assert not torch.equal(made(x), before)
    other = moesaic.FusedMoe(config_of(layer))
    other.load_prepared(tmp_path / "prepared")
    assert torch.equal(other(x), before)


def test_the_first_call_is_captured_and_replayed_with_other_inputs(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    x, out = cuda(layer.bits_x), torch.empty(33, 256, device="cuda", dtype=torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = made(x)
        made(y, out=out)
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        wanted = made(x)
        assert torch.equal(y, wanted) and torch.equal(out, made(wanted))


def test_a_graph_and_calls_beside_it_do_not_share_a_workspace(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    x, other = cuda(layer.bits_x), torch.randn(33, 256, device="cuda").bfloat16()
    wanted_x, wanted_other = made(x), made(other)
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        made(other)  # a workspace of this stream
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side):
        y = made(x)
    for _ in range(50):
        graph.replay()
        with torch.cuda.stream(side):
            z = made(other)
        torch.cuda.synchronize()
        assert torch.equal(y, wanted_x) and torch.equal(z, wanted_other)


def test_the_current_stream_is_the_default(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    source, stream = cuda(layer.bits_x), torch.cuda.Stream()
    wanted = made(source)
    torch.cuda.synchronize()
    x = torch.zeros(33, 256, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # whatever runs on another stream sees zeros
        x.copy_(source)
        y = made(x)
    stream.synchronize()
    assert torch.equal(y, wanted)
    y = made(x, stream=stream)
    stream.synchronize()
    assert torch.equal(y, wanted)
    assert torch.equal(made(x, stream=torch.cuda.current_stream().cuda_stream), wanted)


def test_two_streams_and_threads_at_once(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    inputs = [torch.randn(tokens, 256, device="cuda").bfloat16() for tokens in (300, 33)]
    wanted = [made(x) for x in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    results = [[], []]
    for _ in range(50):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(made(inputs[i]))
    torch.cuda.synchronize()
    assert all(torch.equal(y, wanted[i]) for i in range(2) for y in results[i])

    def run(index):  # threads on one stream: their launches interleave
        results[index] = [made(inputs[index]) for _ in range(50)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert all(torch.equal(y, wanted[i]) for i in range(2) for y in results[i])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_without_graph_breaks(layer, mode):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))

    def step(x):
        return made(x * 2) + x

    compiled = torch.compile(step, fullgraph=True, mode=mode)
    for _ in range(4):
        x = torch.randn(33, 256, device="cuda").bfloat16()
        assert torch.equal(compiled(x).clone(), step(x))


def test_compiled_quantiser_router_and_product():
    x, w = torch.randn(64, 256, device="cuda").bfloat16(), torch.randn(32, 256, device="cuda").bfloat16()
    op = moesaic.Gemm(w)

    @torch.compile(fullgraph=True)
    def compiled(x):
        logits = moesaic.gemm(x, op, out_dtype="f32")
        q = moesaic.quantize(x, "mxfp8", layout="128x4")
        return moesaic.route(logits, 4).ids, moesaic.dequantize(q, "bf16")

    ids, back = compiled(x)
    assert torch.equal(ids, moesaic.route(moesaic.gemm(x, op, out_dtype="f32"), 4).ids)
    assert torch.equal(back, moesaic.dequantize(moesaic.quantize(x, "mxfp8", layout="128x4"), "bf16"))


class Producer:
    """A library that has DLPack and nothing else."""

    def __init__(self, source):
        self.source = source

    def __dlpack_device__(self):
        return self.source.__dlpack_device__()

    def __dlpack__(self, stream=None):
        return self.source.__dlpack__(stream=stream)


def test_other_producers_get_arrays(layer):
    made = moesaic.FusedMoe(config_of(layer), host_weights(layer))
    x = cuda(layer.bits_x)
    y = made(Producer(x))
    assert isinstance(y, moesaic.Array) and y.device == "cuda:0" and y.dtype == "bf16"
    assert torch.equal(torch.from_dlpack(y), made(x))


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import ctypes, moesaic
layer = moesaic.from_checkpoint(sys.argv[1], device="cuda", max_tokens=8)
x = moesaic.Array((3, 160), "bf16", "cuda")
driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0 and driver.cuCtxSetCurrent(context) == 0
assert driver.cuMemsetD16_v2(ctypes.c_uint64(x._memory.data), ctypes.c_ushort(0x3F80), ctypes.c_size_t(480)) == 0
y = layer(x, out_dtype="f32")
moesaic._abi.call("moesaic_synchronize", y._device)
host = (ctypes.c_float * 480)()
assert driver.cuMemcpyDtoH_v2(host, ctypes.c_uint64(y._memory.data), ctypes.c_size_t(4 * 480)) == 0
print(*host[:160])
"""


def test_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(DATA / "checkpoints/mixtral")], text=True,
                          check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    layer = moesaic.from_checkpoint(DATA / "checkpoints/mixtral", device="cuda", max_tokens=8)
    wanted = layer(torch.ones(3, 160, device="cuda", dtype=torch.bfloat16), out_dtype="f32")[0]
    assert np.allclose([float(word) for word in done.stdout.split()], wanted.cpu().numpy(), rtol=1e-6)
