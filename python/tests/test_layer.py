# SPDX-License-Identifier: Apache-2.0
"""The layer on the CPU against formulas in numpy and recorded outputs; refusals; what it takes and gives."""

import dataclasses
import re
import threading

import numpy as np
import pytest

import moesaic
from support import DATA, ROOT, Layer, from_bf16, moe, near_reference, read_safetensors, rounded, sigmoid, to_bf16, \
    worst_row

BF16 = 6e-3  # relative L2 of the worst row, src/tables/recipe_table.h


def config_of(layer, **fields):
    return moesaic.MoeConfig(**{**layer.shape, "max_tokens": 64, **fields})


def weights_of(layer, **more):
    bits = {name: moesaic.view(getattr(layer, "bits_" + name), "bf16") for name in ("w13", "w2", "router")}
    return moesaic.Weights(**{**bits, **more})


@pytest.fixture(name="layer")
def fixture_layer():
    return Layer()


def test_layer_with_its_own_router(layer):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    y = moe_layer(moesaic.view(layer.bits_x, "bf16"))
    assert y.dtype == np.uint16 and y.shape == layer.x.shape
    assert worst_row(from_bf16(y), layer.wanted()) < BF16
    assert moe_layer.device == "cpu" and moe_layer.kernels(19)[0].startswith("cpu_fast_")


def test_given_logits_and_given_ids(layer):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    logits = np.random.default_rng().standard_normal(layer.logits.shape).astype(np.float32)
    ids, weights = np.empty((19, 3), np.int32), np.empty((19, 3), np.float32)
    y = moe_layer(layer.bits_x, dtype="bf16", router_logits=logits, out_dtype="f32", topk_ids_out=ids,
                  topk_weights_out=weights)
    assert y.dtype == np.float32
    assert worst_row(y, moe(layer.x, layer.w13, layer.w2, logits.astype(np.float64), 3)) < BF16
    again = moe_layer(layer.bits_x, dtype="bf16", topk_ids=ids, topk_weights=weights, out_dtype="f32")
    assert np.array_equal(y, again)
    half = moe_layer(layer.bits_x, dtype="bf16", topk_ids=ids, topk_weights=weights / 2, out_dtype="f32")
    assert np.allclose(half, y / 2)


def test_out_is_written_and_given_back(layer):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    out = np.full(layer.x.shape, np.nan, np.float32)
    assert moe_layer(layer.bits_x, dtype="bf16", out=out) is out
    assert worst_row(out, layer.wanted()) < BF16


def test_experts_with_strides_and_biases(layer):
    rng = np.random.default_rng()
    inner, b13, b2 = 64, rng.standard_normal((7, 128)).astype("f"), rng.standard_normal((7, 128)).astype("f")
    transposed = np.ascontiguousarray(layer.bits_w13.transpose(0, 2, 1))
    experts = []
    for e in range(7):
        gate, up = transposed[e].T[:inner], transposed[e].T[inner:]
        experts.append(moesaic.Expert(moesaic.view(gate, "bf16"), moesaic.view(up, "bf16"),
                                      moesaic.view(layer.bits_w2[e], "bf16"), b13[e, :inner], b13[e, inner:], b2[e]))
    router = moesaic.view(layer.bits_router, "bf16")
    by_expert = moesaic.FusedMoe(config_of(layer), moesaic.Weights(experts=experts, router=router))
    fused = moesaic.FusedMoe(config_of(layer), weights_of(layer, b13=b13, b2=b2))
    y = by_expert(layer.bits_x, dtype="bf16")
    assert np.array_equal(y, fused(layer.bits_x, dtype="bf16"))
    plain = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    assert not np.array_equal(y, plain(layer.bits_x, dtype="bf16"))


def test_prepare_expert_and_prepared_files(layer, tmp_path):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    before = moe_layer(layer.bits_x, dtype="bf16", out_dtype="f32")
    moe_layer.save_prepared(tmp_path / "layer.prepared")
    layer.w13[2], layer.w2[2] = rounded(-layer.w13[2]), rounded(2 * layer.w2[2])
    g, u, d = (moesaic.view(to_bf16(m), "bf16") for m in (layer.w13[2, :64], layer.w13[2, 64:], layer.w2[2]))
    moe_layer.prepare_expert(2, moesaic.Expert(g, u, d))
    after = moe_layer(layer.bits_x, dtype="bf16", out_dtype="f32")
    assert worst_row(after, layer.wanted()) < BF16 and not np.array_equal(before, after)
    other = moesaic.FusedMoe(config_of(layer))
    other.load_prepared(tmp_path / "layer.prepared")
    assert np.array_equal(before, other(layer.bits_x, dtype="bf16", out_dtype="f32"))
    with pytest.raises(moesaic.IoError, match="nowhere"):
        other.load_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize("recipe", ["fp16", "fp8_tensor", "fp8_channel", "fp8_block", "mxfp8", "mxfp8_mxfp4",
                                    "fp8_mxfp4", "bf16_mxfp4", "nvfp4", "bf16_nvfp4", "bf16_int4", "fp8_int4"])
def test_converted_recipes_against_the_reference(recipe):
    layer = Layer(hidden=256, inner=128)
    config = config_of(layer, recipe=recipe)
    weights = weights_of(layer).convert(config)
    x = layer.x.astype(np.float16) if recipe == "fp16" else moesaic.view(layer.bits_x, "bf16")
    y = moesaic.FusedMoe(config, weights)(x, out_dtype="f32")
    wanted = moesaic.reference_moe(config, weights, x)
    assert wanted.dtype == np.float64 and near_reference(y, wanted)
    exact = moesaic.reference_moe(config, weights, x, mode="exact")
    assert worst_row(y, exact) < 0.35 and not np.array_equal(exact, wanted)


def test_parts_of_a_layer_add_up(layer):
    x = moesaic.view(layer.bits_x, "bf16")
    whole = moesaic.FusedMoe(config_of(layer), weights_of(layer))(x, out_dtype="f32")
    router = moesaic.view(layer.bits_router, "bf16")

    def part(ids, **fields):
        held = {name: moesaic.view(np.ascontiguousarray(getattr(layer, "bits_" + name)[ids]), "bf16")
                for name in ("w13", "w2")}
        return moesaic.FusedMoe(config_of(layer, **fields), moesaic.Weights(router=router, **held))(x, out_dtype="f32")

    ranges = part([0, 1, 2], experts_count=3) + part([3, 4, 5, 6], experts_first=3, experts_count=4)
    assert worst_row(ranges, whole) < 1e-5
    slots = part([6, 0], expert_slots=[1, -1, -1, -1, -1, -1, 0])
    others = part([1, 2, 3, 4, 5], expert_slots=[-1, 0, 1, 2, 3, 4, -1])
    assert worst_row(slots + others, whole) < 1e-5 and worst_row(slots, whole) > 0.1
    halves = 0
    for rank in (0, 1):
        rows = np.r_[rank * 32:rank * 32 + 32, 64 + rank * 32:96 + rank * 32]
        w13, w2 = (np.ascontiguousarray(m) for m in (layer.bits_w13[:, rows],
                                                     layer.bits_w2[:, :, rank * 32:rank * 32 + 32]))
        weights = moesaic.Weights(w13=moesaic.view(w13, "bf16"), w2=moesaic.view(w2, "bf16"), router=router)
        config = config_of(layer, tp_rank=rank, tp_size=2)
        halves = halves + moesaic.FusedMoe(dataclasses.replace(config, intermediate=32), weights)(x, out_dtype="f32")
    assert worst_row(halves, whole) < 1e-5


def test_shared_experts_activations_and_routing_by_token(layer):
    rng = np.random.default_rng()
    table, tokens = rng.integers(0, 7, (11, 3)).astype(np.int32), rng.integers(0, 11, 19)
    gate = to_bf16(rng.standard_normal(128) / 12)
    shared = moesaic.Expert(*(moesaic.view(m, "bf16") for m in (layer.bits_w13[0, :64], layer.bits_w13[0, 64:],
                                                                layer.bits_w2[0])))
    config = config_of(layer, routing="hash", vocabulary=11, activation="swiglu_bias", alpha=1.702, beta=1.0, limit=2.0,
                       shared_intermediate=64, shared_gated=True, scaling=1.5)
    made = moesaic.FusedMoe(config, weights_of(layer, token_experts=table, shared=shared,
                                               shared_gate=moesaic.view(gate, "bf16")))
    y = made(layer.bits_x, dtype="bf16", token_ids=tokens, out_dtype="f32")
    x, wanted = layer.x.astype(np.float64), np.zeros(layer.x.shape)

    def expert(e, row):
        both = layer.w13[e].astype(np.float64) @ row
        g, u = np.minimum(both[:64], 2.0), np.clip(both[64:], -2.0, 2.0)
        return layer.w2[e].astype(np.float64) @ rounded(g * sigmoid(1.702 * g) * (u + 1.0)).astype(np.float64)

    for t, token in enumerate(tokens):
        w = np.sqrt(np.log1p(np.exp(layer.logits[t, table[token]])))
        wanted[t] = sum(w[s] / w.sum() * 1.5 * expert(table[token, s], x[t]) for s in range(3))
        wanted[t] += sigmoid(x[t] @ from_bf16(gate)) * expert(0, x[t])
    assert worst_row(y, wanted) < BF16


@pytest.mark.parametrize("recipe,fmt", [("mxfp8", "mxfp8"), ("fp8_channel", "fp8_row"), ("nvfp4", "nvfp4_row"),
                                        ("fp8_block", "fp8_1x128")])
def test_codes_as_x_are_worth_what_the_layer_makes_of_numbers(recipe, fmt):
    layer = Layer(hidden=256, inner=128)
    config = config_of(layer, recipe=recipe)
    made = moesaic.FusedMoe(config, weights_of(layer).convert(config))
    x, logits = moesaic.view(layer.bits_x, "bf16"), layer.logits.astype(np.float32)
    q = moesaic.quantize(x, fmt)
    scales = q.scales[:, 0] if fmt == "fp8_row" else q.scales
    y = made(q.codes, x_scale=np.ascontiguousarray(scales), x_row_scale=q.row_scales, router_logits=logits)
    assert y.dtype == np.uint16 and np.array_equal(y, made(x, router_logits=logits))
    with pytest.raises(moesaic.InvalidArgumentError, match="x_scale"):
        made(q.codes, router_logits=logits)


def test_dispatched_rows_are_the_experts_alone(layer):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    offsets = np.array([0, 4, 4, 5, 9, 12, 12, 19], np.int32)
    y = moe_layer(layer.bits_x, dtype="bf16", expert_offsets=offsets, out_dtype="f32")
    expert = np.searchsorted(offsets, np.arange(19), side="right") - 1
    logits = np.where(np.arange(7)[None] == expert[:, None], 50.0, -50.0)
    assert worst_row(y, moe(layer.x, layer.w13, layer.w2, logits, 1)) < BF16


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "gpt_oss_mxfp4", "qwen3_moe_nvfp4",
                                  "deepseek_v3_fp8_block"])
def test_checkpoints_give_what_was_recorded(name):
    stored = read_safetensors(DATA / "checkpoints" / name / "io.safetensors")
    layer = moesaic.from_checkpoint(DATA / "checkpoints" / name, max_tokens=64)
    y = layer(moesaic.view(to_bf16(stored["x"]), "bf16"), out_dtype="f32")
    assert worst_row(y, stored["y"]) < {"bf16": BF16, "bf16_mxfp4": BF16, "nvfp4": 0.3}.get(layer.config.recipe, 0.09)


def test_checkpoint_facts_and_other_recipes():
    checkpoint = moesaic.Checkpoint(DATA / "checkpoints/deepseek_v3")
    assert checkpoint.family == "deepseek_v3" and len(checkpoint.moe_layers) == 2
    config, weights = checkpoint.load(checkpoint.moe_layers[1])
    assert config.routing == "deepseek_v3" and config.shared_intermediate > 0 and config.recipe == "bf16"
    stored = read_safetensors(DATA / "checkpoints/deepseek_v3/io_layer2.safetensors")
    exact = moesaic.reference_moe(config, weights, stored["x"], mode="exact")
    assert worst_row(exact, stored["y"]) < 1e-5
    layer = moesaic.from_checkpoint(DATA / "checkpoints/deepseek_v3", checkpoint.moe_layers[1], recipe="fp8_block",
                                    max_tokens=32)
    assert layer.config.recipe == "fp8_block"
    assert 1e-3 < worst_row(layer(to_bf16(stored["x"]), dtype="bf16", out_dtype="f32"), stored["y"]) < 0.16


def test_threads_share_a_layer(layer):
    moe_layer = moesaic.FusedMoe(config_of(layer), weights_of(layer))
    wanted, results = moe_layer(layer.bits_x, dtype="bf16"), [None] * 6

    def run(index):
        results[index] = all(np.array_equal(moe_layer(layer.bits_x, dtype="bf16"), wanted) for _ in range(20))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 6


def test_refusals_are_exceptions_with_the_librarys_text(layer):
    config = config_of(layer)
    with pytest.raises(moesaic.InvalidArgumentError, match="hidden"):
        moesaic.FusedMoe(dataclasses.replace(config, hidden=-1))
    with pytest.raises(ValueError, match="'bf17' is not known; known: bf16, fp16"):
        moesaic.FusedMoe(dataclasses.replace(config, recipe="bf17"))
    with pytest.raises(moesaic.InvalidArgumentError, match="activation is 'swish', wanted one of gelu, relu"):
        moesaic.FusedMoe(dataclasses.replace(config, activation="swish"))
    moe_layer = moesaic.FusedMoe(config, weights_of(layer))
    with pytest.raises(moesaic.InvalidArgumentError, match=r"x is f32 \[19, 128\], wanted bf16"):
        moe_layer(layer.x)
    with pytest.raises(moesaic.InvalidArgumentError, match="x is u8|DLPack type 1 of 16 bits"):
        moe_layer(layer.bits_x)
    with pytest.raises(moesaic.InvalidArgumentError, match="stride"):
        moe_layer(moesaic.view(np.asfortranarray(layer.bits_x), "bf16"))
    with pytest.raises(moesaic.InvalidArgumentError, match="65"):
        moe_layer(np.zeros((65, 128), np.uint16), dtype="bf16")
    with pytest.raises(moesaic.InvalidArgumentError, match="prepared"):
        moesaic.FusedMoe(config)(layer.bits_x, dtype="bf16")
    with pytest.raises(moesaic.InvalidArgumentError, match="device is gpu, wanted cpu, cuda"):
        moesaic.FusedMoe(dataclasses.replace(config, device="gpu"))
    with pytest.raises(moesaic.Error, match="."):
        moesaic.from_checkpoint("/nowhere")
    with pytest.raises(OSError, match="/nowhere"):
        moesaic.Checkpoint("/nowhere")
    with pytest.raises(moesaic.InvalidArgumentError, match="on cpu, wanted a CUDA device|device is cpu"):
        weights_of(layer).to("cpu")


def test_explain_names_every_architecture(layer):
    text = moesaic.explain(config_of(layer), 16)
    assert "SM90" in text or "90" in text.split()
    assert "cpu" in text.lower()
    with pytest.raises(moesaic.InvalidArgumentError):
        moesaic.explain(config_of(layer), 0)


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_programs_of_the_docs_run():
    x = moesaic.view(to_bf16(np.random.default_rng().standard_normal((3, 160))), "bf16")
    w = np.random.default_rng().standard_normal((4, 64)).astype(np.float32)
    (block,) = python_blocks(ROOT / "README.md")
    names = {"folder": DATA / "checkpoints/mixtral", "x": x, "w": w}
    exec(block.replace('"cuda:0"', '"cpu"'), names)
    assert names["y"].shape == (3, 160) and names["q"].format == "mxfp8"
    layer = Layer(experts=8)
    names = {name: moesaic.view(getattr(layer, "bits_" + name), "bf16") for name in ("x", "w13", "w2", "router")}
    (block,) = python_blocks(ROOT / "docs/python.md")
    names["logits"] = layer.logits.astype(np.float32)
    exec("import moesaic\n" + block, names)
    assert names["y"].shape == layer.x.shape and names["layer"].config.recipe == "fp8_block"
