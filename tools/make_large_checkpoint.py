#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a folder with one MoE layer of DeepSeek-V3's shape in fp8 blocks (about 11 GB of random codes), to see what
loading and converting a layer of real size needs. Not part of any test.
Usage: tools/make_large_checkpoint.py FOLDER [--experts 256] [--hidden 7168] [--intermediate 2048]"""

import argparse
import json
import os
import pathlib
import struct

BLOCK = 128
CHUNK = 32 << 20


def plan(args):
    """(name, dtype, shape, kind of content) of every tensor, widest types first."""
    block = "model.layers.0.mlp."
    matrices = {}
    for owner in [f"experts.{e}." for e in range(args.experts)] + ["shared_experts."]:
        matrices[block + owner + "gate_proj"] = (args.intermediate, args.hidden)
        matrices[block + owner + "up_proj"] = (args.intermediate, args.hidden)
        matrices[block + owner + "down_proj"] = (args.hidden, args.intermediate)
    blocks = lambda n: (n + BLOCK - 1) // BLOCK
    scales = [(name + ".weight_scale_inv", "F32", (blocks(n), blocks(k)), "scale") for name, (n, k) in matrices.items()]
    router = [(block + "gate.e_score_correction_bias", "F32", (args.experts,), "zero"),
              (block + "gate.weight", "BF16", (args.experts, args.hidden), "bf16")]
    codes = [(name + ".weight", "F8_E4M3", shape, "codes") for name, shape in matrices.items()]
    return scales + router + codes


def size_of(dtype, shape):
    elements = 1
    for n in shape:
        elements *= n
    return elements * {"F32": 4, "BF16": 2, "F8_E4M3": 1}[dtype]


def content(kind, size, noise):
    """Bytes of a tensor, a chunk at a time."""
    if kind == "scale":
        yield struct.pack("<f", 1e-3) * (size // 4)
    elif kind == "zero":
        yield bytes(size)
    else:
        while size > 0:
            part = noise[: min(size, len(noise))]
            yield part
            size -= len(part)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--intermediate", type=int, default=2048)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    # Bit 6 clear: no NaN among e4m3 codes, and bf16 numbers of moderate size.
    noise = os.urandom(CHUNK).translate(bytes(b & 0xBF for b in range(256)))
    tensors, header, end = plan(args), {}, 0
    for name, dtype, shape, _ in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size_of(dtype, shape)]}
        end += size_of(dtype, shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(args.folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, kind in tensors:
            for part in content(kind, size_of(dtype, shape), noise):
                file.write(part)
    config = {"model_type": "deepseek_v3", "hidden_size": args.hidden, "moe_intermediate_size": args.intermediate,
              "n_routed_experts": args.experts, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
              "n_shared_experts": 1, "first_k_dense_replace": 0, "moe_layer_freq": 1, "num_hidden_layers": 1,
              "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
              "topk_method": "noaux_tc", "hidden_act": "silu", "torch_dtype": "bfloat16",
              "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                      "weight_block_size": [BLOCK, BLOCK]}}
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{args.folder}: {end / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
