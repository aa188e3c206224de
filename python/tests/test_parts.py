# SPDX-License-Identifier: Apache-2.0
"""Quantisers, routing and products against recorded tables and formulas in numpy."""

import numpy as np
import pytest

import moesaic
from moesaic import _quantize
from support import DATA, chosen, from_bf16, read_safetensors, rounded, sigmoid, softmax, to_bf16, worst_row

TABLE = read_safetensors(DATA / "tables/quantizers.safetensors")
CODECS = read_safetensors(DATA / "tables/codecs.safetensors")
RECORDED = {"nvfp4": "nvfp4", "nvfp4_static": "nvfp4", "nvfp4_row": "nvfp4_row", "mxfp4": "mxfp4", "mxfp8": "mxfp8",
            "mxfp8_e5m2": "mxfp8_e5m2", "fp8_tensor": "fp8_tensor", "fp8_token": "fp8_row",
            "fp8_1x128": "fp8_1x128", "fp8_128x128": "fp8_128x128"}


@pytest.mark.parametrize("which", ["normal", "ragged", "outliers"])
@pytest.mark.parametrize("name", RECORDED)
def test_quantize_gives_the_recorded_bytes(name, which):
    extra = {}
    if RECORDED[name] == "nvfp4":
        extra["global_scale"] = TABLE[f"{which}.{name}.global_scale"]
    q = moesaic.quantize(moesaic.view(TABLE[f"{which}.input"], "bf16"), RECORDED[name], **extra)
    assert np.array_equal(q.codes, TABLE[f"{which}.{name}.codes"])
    assert np.array_equal(q.scales, TABLE[f"{which}.{name}.scales"])
    if name == "nvfp4_row":
        assert np.array_equal(q.row_scales, TABLE[f"{which}.{name}.row_scale"])


def decoded(q):
    """The numbers of a quantised matrix, from the codecs' tables."""
    m, k = q.shape
    four = q.codes.shape[1] != k
    codes = np.stack([q.codes & 15, q.codes >> 4], -1).reshape(m, -1) if four else q.codes
    if q.format == "int4":
        zero = 8 if q.zeros is None else np.repeat(q.zeros, q.group_size, 1)
        return (codes.astype(np.float64) - zero) * np.repeat(from_bf16(q.scales).astype(np.float64), q.group_size, 1)
    values = CODECS["decode." + ("e2m1" if four else "e5m2" if "e5m2" in q.format else "e4m3fn")][codes]
    scales = q.scales
    if scales.dtype == np.uint8:
        scales = CODECS["decode.e4m3fn" if "nvfp4" in q.format else "decode.e8m0"][scales]
    rows = 128 if q.format == "fp8_128x128" else -(-m // scales.shape[0])
    cols = 128 if q.format in ("fp8_128x128", "fp8_1x128") else -(-k // scales.shape[1])
    spread = np.repeat(np.repeat(scales, rows, 0)[:m], cols, 1)[:, :k].astype(np.float64)
    if q.format == "nvfp4":
        spread = spread / float(q.global_scale[0])
    if q.row_scales is not None:
        spread = spread * q.row_scales[:, None]
    return values * spread


# Half a step of the codes at the largest number, relative to it (e4m3: 2^-4), and what rounded scales add.
STEP = {"nvfp4": 0.2, "nvfp4_row": 0.2, "mxfp4": 0.26, "mxfp8_e5m2": 0.13, "int4": 0.08}


@pytest.mark.parametrize("fmt", ["nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_tensor", "fp8_row",
                                 "fp8_1x128", "fp8_128x128", "int4"])
def test_round_trips_of_random_numbers(fmt):
    x = np.random.default_rng().standard_normal((130, 320)).astype(np.float32)
    q = moesaic.quantize(x, fmt, group_size=64)
    back = moesaic.dequantize(q)
    assert back.dtype == np.float32 and np.allclose(back, decoded(q), rtol=1e-6, atol=0)
    assert np.abs(back - x).max() <= STEP.get(fmt, 0.065) * np.abs(x).max()
    assert np.array_equal(from_bf16(moesaic.dequantize(q, "bf16")), rounded(back))
    if fmt == "int4":  # its largest code is not its scale's number
        return
    again = moesaic.quantize(back, fmt, group_size=64, global_scale=q.global_scale)
    assert np.mean(np.isclose(moesaic.dequantize(again), back, rtol=1e-5, atol=0)) > 0.98


def test_int4_with_zero_points_and_static_fp8():
    x = np.random.default_rng().uniform(-1, 3, (5, 128)).astype(np.float32)
    q = moesaic.quantize(x, "int4", group_size=32, zero_points=True)
    assert q.zeros.shape == (5, 4) and np.abs(moesaic.dequantize(q) - x).max() < 4 / 15 * 0.6
    assert np.allclose(moesaic.dequantize(q), decoded(q), rtol=1e-6)
    static = moesaic.quantize(x, "fp8_static", global_scale=np.array([0.25], np.float32))
    values = CODECS["decode.e4m3fn"][static.codes]
    assert np.allclose(values * 0.25, x, rtol=0.07, atol=1e-3)


def test_layouts_hold_the_linear_scales():
    x = np.random.default_rng().standard_normal((200, 96)).astype(np.float32)
    linear = moesaic.quantize(x, "mxfp8").scales
    for layout, tile in (("128x4", 128), ("8x4", 8)):
        q = moesaic.quantize(x, "mxfp8", layout=layout)
        m, k = np.meshgrid(np.arange(200), np.arange(3), indexing="ij")
        if tile == 128:
            index = m // 128 * 512 + m % 32 * 16 + m % 128 // 32 * 4 + k
        else:
            index = m // 8 * 32 + m % 8 * 4 + k
        assert q.scales.size == -(-200 // tile) * tile * 4 and np.array_equal(q.scales[index], linear)
        assert np.array_equal(moesaic.dequantize(q), moesaic.dequantize(moesaic.quantize(x, "mxfp8")))


def test_gated_activation_on_the_way():
    x = np.random.default_rng().standard_normal((9, 256)).astype(np.float32)
    q = moesaic.quantize(x, "mxfp8", activation="swiglu")
    assert q.shape == (9, 128)
    h = x[:, :128] * sigmoid(x[:, :128]) * x[:, 128:]
    assert worst_row(moesaic.dequantize(q), h) < 0.05


def test_grouped_rows_begin_on_tiles():
    x = np.random.default_rng().standard_normal((9, 64)).astype(np.float32)
    offsets = np.array([0, 4, 9], np.int32)
    q = moesaic.quantize(x, "mxfp4", layout="128x4", group_offsets=offsets)
    assert q.scales.size == ((9 + 254) // 128 * 128 + 128) * 4
    assert np.array_equal(moesaic.dequantize(q), moesaic.dequantize(moesaic.quantize(x, "mxfp4")))


def test_formats_of_recipes_and_their_blocks():
    assert moesaic.weight_format("bf16") is None and moesaic.weight_format("nvfp4") == "nvfp4"
    assert moesaic.weight_format("fp8_block") == "fp8_128x128" and moesaic.weight_format("bf16_int4") == "int4"
    for fmt in ("nvfp4", "nvfp4_row", "mxfp4", "mxfp8", "mxfp8_e5m2", "fp8_static", "fp8_tensor", "fp8_row",
                "fp8_1x128", "fp8_128x128", "int4"):
        sizes = _quantize.sizes_of(_quantize._spec(fmt, "linear", "up", 64, False), 300, 640)
        assert _quantize.scale_shape(fmt, 300, 640, 64) == (sizes.scale_rows, sizes.scale_cols), fmt
        assert sizes.code_bytes == 300 * 640 // (2 if _quantize.is_four_bits(fmt) else 1), fmt


def test_refusals_of_quantize():
    with pytest.raises(moesaic.InvalidArgumentError, match="format is 'fp3', wanted one of nvfp4"):
        moesaic.quantize(np.zeros((2, 32), np.float32), "fp3")
    with pytest.raises(moesaic.InvalidArgumentError, match="31|multiple of 32|% 32"):
        moesaic.quantize(np.zeros((2, 31), np.float32), "mxfp8")
    with pytest.raises(moesaic.InvalidArgumentError, match=r"x has shape \[32\], wanted \[M, K\]"):
        moesaic.quantize(np.zeros(32, np.float32), "mxfp8")
    with pytest.raises(moesaic.InvalidArgumentError, match="i32"):
        moesaic.quantize(np.zeros((2, 32), np.int32), "mxfp8")


def grouped_scores(scores, n_group, topk_group, best):
    grouped = scores.reshape(len(scores), n_group, -1)
    rank = np.sort(grouped, -1)[..., -best:].sum(-1)
    keep = np.zeros(rank.shape, bool)
    np.put_along_axis(keep, chosen(rank, topk_group), True, -1)
    return np.where(np.repeat(keep, grouped.shape[2], 1), scores, -np.inf)


def routed_by_formula(method, logits, k, bias):
    sig, soft = sigmoid(logits), softmax(logits)
    if method == "softmax_topk":
        ids = chosen(soft, k)
        return ids, np.take_along_axis(soft, ids, -1)
    if method == "softmax_topk_renorm":
        ids = chosen(soft, k)
        w = np.take_along_axis(soft, ids, -1)
        return ids, w / w.sum(-1, keepdims=True)
    if method == "topk_softmax":
        ids = chosen(logits, k)
        return ids, softmax(np.take_along_axis(logits, ids, -1))
    if method == "deepseek_v3":
        ids = chosen(grouped_scores(sig + bias, 4, 2, 2), k)
        w = np.take_along_axis(sig, ids, -1)
        return ids, w / w.sum(-1, keepdims=True) * 2.5
    if method == "deepseek_v2":
        ids = chosen(grouped_scores(soft, 4, 2, 1), k)
        w = np.take_along_axis(soft, ids, -1)
        return ids, w / w.sum(-1, keepdims=True)
    ids = chosen(sig + (bias if method == "minimax2" else 0), k)
    w = np.take_along_axis(logits if method == "topk" else sig, ids, -1)
    if method in ("sigmoid", "minimax2"):
        w = w / w.sum(-1, keepdims=True)
    return ids, w * (2.5 if method == "minimax2" else 1)


@pytest.mark.parametrize("method", ["softmax_topk", "softmax_topk_renorm", "topk_softmax", "deepseek_v3",
                                    "deepseek_v2", "llama4", "topk", "sigmoid", "minimax2"])
def test_routing_formulas(method):
    rng = np.random.default_rng()
    logits, bias = rng.standard_normal((33, 16)).astype(np.float32), rng.uniform(0, 0.3, 16).astype(np.float32)
    extra = {}
    if method in ("deepseek_v3", "minimax2"):
        extra = {"selection_bias": bias, "scaling": 2.5}
    if method.startswith("deepseek"):
        extra.update(n_group=4, topk_group=2)
    got = moesaic.route(logits, 3, method=method, **extra)
    ids, weights = routed_by_formula(method, logits.astype(np.float64), 3, bias)
    assert np.array_equal(got.ids, ids) and np.allclose(got.weights, weights, rtol=1e-5)
    assert got.row_offsets is None


def test_rows_of_every_expert_in_order():
    logits = np.random.default_rng().standard_normal((40, 12)).astype(np.float32)
    got = moesaic.route(logits, 4, rows=True, experts_first=2, experts_count=5, shared_slots=1, shared_weight=0.5)
    assert got.ids.shape == (40, 5) and (got.ids[:, 4] == 12).all() and (got.weights[:, 4] == 0.5).all()
    local = np.where(got.ids == 12, 5, np.where((got.ids >= 2) & (got.ids < 7), got.ids - 2, -1))
    order = [(t, s) for e in range(6) for t in range(40) for s in range(5) if local[t, s] == e]
    counts = [int((local == e).sum()) for e in range(6)]
    assert got.row_offsets.tolist() == [0, *np.cumsum(counts)]
    assert got.row_token[:len(order)].tolist() == [t for t, _ in order]
    assert np.array_equal(got.row_weight[:len(order)], [got.weights[t, s] for t, s in order])
    slot_row = np.full((40, 5), -1)
    for row, (t, s) in enumerate(order):
        slot_row[t, s] = row
    assert np.array_equal(got.slot_row, slot_row)


def test_hash_routing_and_slots():
    rng = np.random.default_rng()
    logits, table = rng.standard_normal((9, 8)).astype(np.float32), rng.integers(0, 8, (20, 2)).astype(np.int32)
    tokens = rng.integers(0, 20, 9)
    got = moesaic.route(logits, 2, method="hash", token_ids=tokens, token_experts=table,
                        expert_slots=[1, -1, 0, 2, -1, -1, 3, 4], rows=True)
    w = np.sqrt(np.log1p(np.exp(np.take_along_axis(logits, got.ids, -1).astype(np.float64))))
    assert np.array_equal(got.ids, table[tokens]) and np.allclose(got.weights, w / w.sum(-1, keepdims=True), rtol=1e-5)
    assert got.row_offsets.shape == (6,)
    with pytest.raises(moesaic.InvalidArgumentError, match="token_ids"):
        moesaic.route(logits, 2, method="hash", token_experts=table)


@pytest.mark.parametrize("recipe,fmt", [("bf16", None), ("fp8_channel", "fp8_row"), ("mxfp8", "mxfp8"),
                                        ("bf16_mxfp4", "mxfp4"), ("nvfp4", "nvfp4"), ("fp8_tensor", "fp8_tensor"),
                                        ("fp8_block", "fp8_128x128"), ("bf16_int4", "int4")])
def test_gemm(recipe, fmt):
    rng = np.random.default_rng()
    x, w = rounded(rng.standard_normal((11, 256))), rounded(rng.standard_normal((48, 256)) / 16)
    bias = rng.standard_normal(48).astype(np.float32)
    if fmt is None:
        weights, used = moesaic.view(to_bf16(w), "bf16"), w
    else:
        weights = moesaic.quantize(w, fmt, group_size=32)
        used = moesaic.dequantize(weights)
    y = moesaic.gemm(to_bf16(x), weights, bias, recipe=recipe, dtype="bf16", out_dtype="f32", alpha=0.5)
    wanted = 0.5 * (x.astype(np.float64) @ used.T.astype(np.float64)) + bias
    exact = recipe in ("bf16", "bf16_mxfp4", "bf16_int4")
    assert y.shape == (11, 48) and worst_row(y, wanted) < (1e-5 if exact else 0.2)


def test_int4_weights_with_zero_points():
    rng = np.random.default_rng()
    x, w = rounded(rng.standard_normal((5, 128))), rng.uniform(-1, 2, (24, 128)).astype(np.float32)
    q = moesaic.quantize(w, "int4", group_size=32, zero_points=True)
    y = moesaic.gemm(to_bf16(x), q, recipe="bf16_int4", int4_zero_points=True, dtype="bf16", out_dtype="f32")
    assert worst_row(y, x.astype(np.float64) @ decoded(q).T) < 1e-5


def test_int4_weights_with_scales_that_16_bits_do_not_hold():
    rng = np.random.default_rng()
    x = rounded(rng.standard_normal((5, 128)))

    def matrix(rows, cols):
        codes = rng.integers(0, 256, (rows, cols // 2)).astype(np.uint8)
        scales = rng.uniform(0.5, 1, (rows, cols // 32)).astype(np.float32)
        return moesaic.Matrix(codes, codes="int4", scales=scales, block_cols=32)

    w = matrix(24, 128)
    y = moesaic.gemm(to_bf16(x), w, recipe="bf16_int4", int4_f32_scales=True, dtype="bf16", out_dtype="f32")
    numbers = np.stack([w.values & 15, w.values >> 4], -1).reshape(24, 128) - 8.0
    assert worst_row(y, x.astype(np.float64) @ (numbers * np.repeat(w.scales.astype(np.float64), 32, 1)).T) < 1e-5
    weights = moesaic.Weights(experts=[moesaic.Expert(matrix(64, 128), matrix(64, 128), matrix(128, 64))] * 2)
    sizes = {"hidden": 128, "intermediate": 64, "num_experts": 2, "top_k": 1, "router": False, "recipe": "bf16_int4"}
    with pytest.raises(moesaic.InvalidArgumentError, match="int4.f32_scales"):
        moesaic.FusedMoe(moesaic.MoeConfig(**sizes), weights)
    moesaic.FusedMoe(moesaic.MoeConfig(**sizes, int4_f32_scales=True), weights)


def test_grouped_gemm_by_offsets_and_counts():
    rng = np.random.default_rng()
    x, w = rounded(rng.standard_normal((12, 64))), rounded(rng.standard_normal((3, 16, 64)))
    op = moesaic.Gemm([moesaic.view(to_bf16(one), "bf16") for one in w], max_rows=32)
    offsets = np.array([0, 5, 5, 12], np.int32)
    y = moesaic.grouped_gemm(to_bf16(x), op, offsets=offsets, dtype="bf16", out_dtype="f32")
    wanted = np.concatenate([x[:5] @ w[0].T, x[5:] @ w[2].T])
    assert np.allclose(y, wanted, rtol=1e-4, atol=1e-3) and op.kernels(12)
    counted = op(to_bf16(x).reshape(3, 4, 64), counts=np.array([4, 0, 2], np.int32), dtype="bf16", out_dtype="f32")
    assert np.allclose(counted[0], x[:4] @ w[0].T, rtol=1e-4, atol=1e-3)
    assert np.allclose(counted[2, :2], x[8:10] @ w[2].T, rtol=1e-4, atol=1e-3)
    with pytest.raises(moesaic.InvalidArgumentError, match="group_offsets"):
        op(to_bf16(x), dtype="bf16")
    with pytest.raises(moesaic.InvalidArgumentError, match=r"group_offsets\[1\] is 13"):
        op(to_bf16(x), offsets=np.array([0, 13, 13, 13], np.int32), dtype="bf16")
    with pytest.raises(moesaic.InvalidArgumentError, match="weights of recipe mxfp8"):
        moesaic.gemm(to_bf16(x), moesaic.view(to_bf16(w[0]), "bf16"), recipe="mxfp8", dtype="bf16")
