# SPDX-License-Identifier: Apache-2.0
"""torch tensors on the CPU: types and results, the custom ops, torch.compile without graph breaks."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import moesaic  # noqa: E402
from moesaic import _torch_ops  # noqa: E402
from support import Layer, from_bf16, to_bf16, worst_row  # noqa: E402

BF16 = 6e-3


def tensor(bits):
    return torch.from_numpy(np.array(bits).view(np.int16)).view(torch.bfloat16)


def bits_of(t):
    return t.view(torch.int16).numpy().view(np.uint16)


@pytest.fixture(autouse=True)
def fixture_fresh_compiler():
    torch._dynamo.reset()  # the cases of one function count as its recompilations


@pytest.fixture(name="layer")
def fixture_layer():
    return Layer()


def layer_of(layer, **fields):
    config = moesaic.MoeConfig(**{**layer.shape, "max_tokens": 64, **fields})
    weights = moesaic.Weights(w13=tensor(layer.bits_w13), w2=tensor(layer.bits_w2), router=tensor(layer.bits_router))
    return moesaic.FusedMoe(config, weights)


def test_layer_gives_tensors_with_numpys_bits(layer):
    made = layer_of(layer)
    y = made(tensor(layer.bits_x))
    assert y.dtype == torch.bfloat16 and y.device.type == "cpu"
    assert worst_row(y.float().numpy(), layer.wanted()) < BF16
    assert np.array_equal(bits_of(y), made(layer.bits_x, dtype="bf16"))
    assert made(tensor(layer.bits_x), out_dtype=torch.float32).dtype == torch.float32
    out = torch.empty(layer.x.shape)
    assert made(tensor(layer.bits_x), out=out) is out and worst_row(out.numpy(), layer.wanted()) < BF16
    with pytest.raises(moesaic.InvalidArgumentError, match="stride"):
        made(tensor(layer.bits_x).repeat(1, 2)[:, ::2])
    with pytest.raises(moesaic.InvalidArgumentError, match="no_grad"):
        made(tensor(layer.bits_x).requires_grad_())


def test_calls_after_each_other_are_what_each_is_alone(layer):
    made, other = layer_of(layer), layer_of(layer, top_k=2)
    x, logits = tensor(layer.bits_x), torch.randn(19, 7)
    numpy_x, numpy_logits = layer.bits_x, logits.numpy()
    routed = moesaic.route(logits, 3)
    for tokens in (19, 3, 0, 8):
        given = {"topk_ids": routed.ids[:tokens], "topk_weights": routed.weights[:tokens]}
        for a, b in ((made(x[:tokens]), made(numpy_x[:tokens], dtype="bf16")),
                     (made(x[:tokens], router_logits=logits[:tokens]),
                      made(numpy_x[:tokens], dtype="bf16", router_logits=numpy_logits[:tokens])),
                     (made(x[:tokens], **given),
                      made(numpy_x[:tokens], dtype="bf16", router_logits=numpy_logits[:tokens])),
                     (other(x[:tokens]), other(numpy_x[:tokens], dtype="bf16"))):
            assert np.array_equal(bits_of(a), b)
        wide = made(x[:tokens], out_dtype="f32")
        assert wide.dtype == torch.float32 and torch.equal(wide.bfloat16(), made(x[:tokens]))
    out = np.empty((19, 128), np.float32)  # of another library than x
    assert made(x, out=out) is out and np.array_equal(out, made(x, out_dtype="f32").numpy())
    with pytest.raises(moesaic.InvalidArgumentError, match="x is f32"):
        made(x.float())
    with pytest.raises(moesaic.InvalidArgumentError, match=r"router_logits is f32 \[18, 7\]"):
        made(x, router_logits=logits[:18])
    assert torch.equal(made(x), made(x.clone()))


def test_compiled_layer_without_graph_breaks_and_for_several_sizes(layer):
    made = layer_of(layer)
    compiled = torch.compile(lambda x, out: (made(x * 2) + 1, made(x, out=out)), fullgraph=True)
    for tokens in (19, 7, 12):
        x, out = tensor(layer.bits_x)[:tokens], torch.empty(tokens, 128)
        y, written = compiled(x, out)
        assert torch.equal(y, made(x * 2) + 1)
        assert torch.equal(written, made(x, out_dtype="f32")) and torch.equal(out, written)


def test_compiled_layer_with_given_routing(layer):
    made = layer_of(layer)
    x, logits = tensor(layer.bits_x), torch.randn(19, 7)

    @torch.compile(fullgraph=True)
    def compiled(x, logits):
        routed = moesaic.route(logits, 3)
        return made(x, topk_ids=routed.ids, topk_weights=routed.weights, out_dtype="f32"), routed.ids

    y, ids = compiled(x, logits)
    assert torch.equal(y, made(x, router_logits=logits, out_dtype="f32"))
    assert torch.equal(ids, moesaic.route(logits, 3).ids)


def test_compiling_refuses_gradients(layer):
    made = layer_of(layer)
    compiled = torch.compile(lambda x: made(x), fullgraph=True)
    with pytest.raises(Exception, match="no_grad"):
        compiled(tensor(layer.bits_x).requires_grad_())
    with torch.no_grad():
        x = tensor(layer.bits_x).requires_grad_()
        assert torch.equal(compiled(x), made(x))


def test_two_layers_in_one_graph_and_one_that_is_gone(layer):
    layers = [layer_of(layer), layer_of(layer, top_k=1)]
    compiled = torch.compile(lambda x: layers[1](layers[0](x)), fullgraph=True)
    x = tensor(layer.bits_x)
    assert torch.equal(compiled(x), layers[1](layers[0](x)))
    with pytest.raises(moesaic.InvalidArgumentError, match="layer is 'gone'"):
        _torch_ops.OPS.fused_moe(x, "gone", *[None] * 9)


@pytest.mark.parametrize("fmt,extra", [("nvfp4_row", {}), ("mxfp8", {"layout": "128x4"}), ("mxfp4", {"layout": "8x4"}),
                                       ("fp8_128x128", {}), ("fp8_tensor", {}), ("fp8_row", {}), ("fp8_1x128", {}),
                                       ("int4", {"zero_points": True}), ("mxfp8_e5m2", {"activation": "swiglu"})])
def test_compiled_quantisers(fmt, extra):
    x = torch.randn(130, 320).bfloat16()

    @torch.compile(fullgraph=True)
    def both(x):
        q = moesaic.quantize(x, fmt, **extra)
        return q.codes, q.scales, moesaic.dequantize(q, "bf16")

    wanted = moesaic.quantize(x, fmt, **extra)
    codes, scales, back = both(x)
    assert torch.equal(codes, wanted.codes) and torch.equal(scales, wanted.scales)
    assert torch.equal(back, moesaic.dequantize(wanted, torch.bfloat16))


def test_torch_quantizes_as_numpy_does():
    x = torch.randn(40, 128)
    for fmt in ("nvfp4", "mxfp8", "fp8_row", "int4"):
        a, b = moesaic.quantize(x, fmt), moesaic.quantize(x.numpy(), fmt)
        assert np.array_equal(a.codes.numpy(), b.codes), fmt
        assert np.array_equal(moesaic.dequantize(a).numpy(), moesaic.dequantize(b)), fmt
    typed = moesaic.quantize(x, "fp8_row")
    typed = dataclasses.replace(typed, codes=typed.codes.view(torch.float8_e4m3fn))
    assert torch.equal(moesaic.dequantize(typed), typed.codes.float() * typed.scales)


def test_compiled_products():
    x, w = torch.randn(12, 64).bfloat16(), torch.randn(3, 16, 64).bfloat16()
    one, three = moesaic.Gemm(w[0]), moesaic.Gemm(w)
    offsets = torch.tensor([0, 5, 5, 12], dtype=torch.int32)

    @torch.compile(fullgraph=True)
    def compiled(x):
        return moesaic.gemm(x, one, out_dtype="f32"), moesaic.grouped_gemm(x, three, offsets=offsets)

    a, b = compiled(x)
    assert torch.allclose(a, x.float() @ w[0].float().T, atol=1e-3)
    wanted = torch.cat([x[:5].float() @ w[0].float().T, x[5:].float() @ w[2].float().T])
    assert b.dtype == torch.bfloat16 and torch.allclose(b.float(), wanted, rtol=0.01, atol=0.05)


def test_torch_checks_the_ops(layer):
    made = layer_of(layer)
    x, none = tensor(layer.bits_x), [None] * 8
    check = torch.library.opcheck
    check(_torch_ops.OPS.fused_moe.default, (x, made.key, *none, None))
    check(_torch_ops.OPS.fused_moe_out.default, (x, torch.empty(19, 128), made.key, *none))
    check(_torch_ops.OPS.quantize.default, (torch.randn(8, 64), "mxfp8", "linear", "up", 32, False, "",
                                            *[None] * 5))
    check(_torch_ops.OPS.route.default, (torch.randn(8, 6), 2, "topk_softmax", 1, 1, 1.0, True, None, None, None, True,
                                         None, 0, 0, 0, 1.0))
    offsets = torch.tensor([0, 100, 130], dtype=torch.int32)
    for fmt, layout, zeros, act, extra in (
            ("mxfp8", "128x4", False, "", (None, offsets)), ("mxfp4", "8x4", False, "", (None, None)),
            ("nvfp4", "128x4", False, "", (torch.ones(1), None)), ("nvfp4_row", "linear", False, "", (None, None)),
            ("int4", "linear", True, "", (None, None)), ("fp8_128x128", "linear", False, "swiglu", (None, None)),
            ("fp8_tensor", "linear", False, "", (None, None)), ("fp8_1x128", "linear", False, "", (None, None))):
        x = torch.randn(130, 576 if act else 288)
        check(_torch_ops.OPS.quantize.default, (x, fmt, layout, "up", 32, zeros, act, None, None, None, *extra),
              test_utils="test_faketensor")
    q = moesaic.quantize(torch.randn(130, 288), "int4", zero_points=True)
    check(_torch_ops.OPS.dequantize.default, (q.codes, q.scales, "int4", "linear", 32, 288, q.zeros, None, None, None,
                                              torch.bfloat16), test_utils="test_faketensor")
    x = tensor(layer.bits_x)
    op = moesaic.Gemm(tensor(layer.bits_w2[0]))
    check(_torch_ops.OPS.gemm.default, (tensor(to_bf16(from_bf16(layer.bits_w13[0])[:, :64])), op.key, None, None, 1.0,
                                        None, None, "k", None, None))
