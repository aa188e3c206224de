#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `moesaic quantize` writes, read by the libraries whose formats these are: every expert's weights must have the
values that moesaic itself decodes (compared in bf16, which `quantize --recipe bf16` writes).
Usage: libraries_read.py MOESAIC CHECKPOINTS. Exit code 77: torch, compressed-tensors or transformers is not installed."""

import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    from transformers.quantizers.auto import AutoQuantizationConfig
except ImportError as error:
    print(f"skipped: {error}; pip install torch compressed-tensors==0.20.0 transformers==5.17.0 safetensors")
    sys.exit(77)

CASES = [  # folder, recipe, further options, reader
    ("qwen3_moe", "fp8_block", [], "fp8_block"),
    ("deepseek_v3", "fp8_block", [], "fp8_block"),
    ("gpt_oss", "bf16_mxfp4", [], "mxfp4"),
    ("mixtral", "fp8_channel", [], "compressed"),
    ("glm4_moe", "bf16_int4", [], "compressed"),
    ("qwen2_moe", "bf16_int4", ["--int4-zero-points"], "compressed"),
    ("mixtral", "nvfp4", [], "modelopt_nvfp4"),
    ("qwen3_moe", "mxfp8", [], "modelopt_mxfp8"),
    ("olmoe", "fp8_tensor", [], "modelopt_fp8"),
    ("llama4", "nvfp4", [], "modelopt_nvfp4"),  # fused experts are split
]


def read_folder(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def quantise(moesaic, source, recipe, out, options):
    subprocess.run([moesaic, "quantize", "--model", source, "--recipe", recipe, "--out", out, *options], check=True,
                   capture_output=True)


def modules_of(tensors, suffix):
    return sorted(name[: -len(suffix)] for name in tensors if name.endswith(suffix) and ".experts." in name)


def decode_fp8_block(tensors, config):
    AutoQuantizationConfig.from_dict(dict(config))
    reader = FP8BlockDequantizer(dtype=torch.float32)  # transformers' own does not read ragged blocks
    for module in modules_of(tensors, ".weight_scale_inv"):
        scale = tensors[module + ".weight_scale_inv"]
        yield module, reader._create_dequantized_weight(tensors[module + ".weight"], scale)


def decode_mxfp4(tensors, config):
    AutoQuantizationConfig.from_dict(dict(config))
    for blocks in sorted(name for name in tensors if name.endswith("_blocks")):
        name = blocks[: -len("_blocks")]
        yield name, convert_moe_packed_tensors(tensors[blocks], tensors[name + "_scales"], dtype=torch.float32)


def decode_compressed(tensors, config):
    parsed = QuantizationConfig.model_validate(config)
    scheme = parsed.config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(parsed.format)
    for module in modules_of(tensors, ".weight_scale"):
        parts = {name[len(module) + 1:]: value for name, value in tensors.items() if name.startswith(module + ".")}
        parts["weight_scale"] = parts["weight_scale"].float()  # values in fp32
        yield module, compressor.decompress(parts, scheme)["weight"]


def decode_modelopt_nvfp4(tensors, _):
    for module in modules_of(tensors, ".weight_scale_2"):
        packed, scale = tensors[module + ".weight"], tensors[module + ".weight_scale"].float()
        codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
        yield module, codes * (scale * tensors[module + ".weight_scale_2"]).repeat_interleave(16, dim=1)


def decode_modelopt_mxfp8(tensors, _):
    for module in modules_of(tensors, ".weight_scale"):
        scale = torch.exp2(tensors[module + ".weight_scale"].float() - 127)
        yield module, tensors[module + ".weight"].float() * scale.repeat_interleave(32, dim=1)


def decode_modelopt_fp8(tensors, _):
    for module in modules_of(tensors, ".weight_scale"):
        yield module, tensors[module + ".weight"].float() * tensors[module + ".weight_scale"]


DECODERS = {"fp8_block": decode_fp8_block, "mxfp4": decode_mxfp4, "compressed": decode_compressed,
            "modelopt_nvfp4": decode_modelopt_nvfp4, "modelopt_mxfp8": decode_modelopt_mxfp8,
            "modelopt_fp8": decode_modelopt_fp8}


def check(moesaic, checkpoints, folder, recipe, options, reader):
    """Returns how many tensors agree; raises on the first that does not."""
    with tempfile.TemporaryDirectory() as name:
        temp = pathlib.Path(name)
        quantise(moesaic, checkpoints / folder, recipe, temp / "quantised", options)
        quantise(moesaic, temp / "quantised", "bf16", temp / "plain", [])
        tensors, plain = read_folder(temp / "quantised"), read_folder(temp / "plain")
        config = json.loads((temp / "quantised" / "config.json").read_text())["quantization_config"]
        count = 0
        for module, values in DECODERS[reader](tensors, config):
            wanted = plain.get(module + ".weight", plain.get(module))
            if wanted is None:  # split experts of a fused family: the dequantised folder has them fused
                continue
            got = values.to(torch.bfloat16)
            if got.shape != wanted.shape or not torch.equal(got, wanted):
                raise SystemExit(f"{folder} {recipe}: {module}: {int((got != wanted).sum())} of {got.numel()} differ")
            count += 1
        return count


def main():
    moesaic, checkpoints = sys.argv[1], pathlib.Path(sys.argv[2])
    for folder, recipe, options, reader in CASES:
        count = check(moesaic, checkpoints, folder, recipe, options, reader)
        print(f"{folder} {recipe} {' '.join(options)}: {count} tensors agree")
        if count == 0 and folder != "llama4":
            raise SystemExit("nothing was compared")


if __name__ == "__main__":
    main()
