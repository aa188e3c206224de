# SPDX-License-Identifier: Apache-2.0
"""Moesaic in place of the MoE blocks of transformers models (5 or later): `generate` gives the same tokens (bf16,
greedy). The models are tiny and random: Mixtral, Qwen3-MoE and gpt-oss. A random model's best two tokens are often
closer than bf16 tells apart, so its experts learn a random map of tokens first: then each token hangs on them.
Usage: transformers_generate.py [cpu|cuda] [FAMILY...]"""

import sys
import tempfile

import torch
import transformers

import moesaic

SIZES = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts_per_tok": 2,
         "initializer_range": 0.2, "tie_word_embeddings": False}
MODELS = {
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(
        **SIZES, num_experts=4, moe_intermediate_size=96, norm_topk_prob=True)),
    "gpt_oss": lambda: transformers.GptOssForCausalLM(transformers.GptOssConfig(
        **SIZES, num_local_experts=4, layer_types=["sliding_attention", "full_attention"])),
}


class Block(torch.nn.Module):
    """What stands where the model's own MoE block stood, and returns what that did. The model's router stays: its
    logits are rounded to bf16, and the library's, in FP32, choose another expert where two are as good as equal."""

    def __init__(self, layer, router, gives_pair):
        super().__init__()
        self.layer, self.router, self.gives_pair = layer, router, gives_pair

    def forward(self, hidden):
        x = hidden.reshape(-1, hidden.shape[-1])
        _, weights, ids = self.router(x)
        y = self.layer(x, topk_ids=ids.int(), topk_weights=weights.float()).reshape(hidden.shape)
        return (y, None) if self.gives_pair else y


def replace_blocks(model, folder, device):
    """Every MoE block of the model by the layer of the checkpoint that the model came from."""
    for index in moesaic.Checkpoint(folder).moe_layers:
        block = model.model.layers[index].mlp
        router = block.router if hasattr(block, "router") else block.gate
        gives_pair = isinstance(block(torch.zeros(1, 1, SIZES["hidden_size"], dtype=torch.bfloat16, device=device)),
                                tuple)
        model.model.layers[index].mlp = Block(moesaic.from_checkpoint(folder, index, device=device), router, gives_pair)


def teach_experts(model):
    """Trains the experts alone until the next token is a function of the last."""
    model.requires_grad_(False)
    model.model.embed_tokens.weight *= 5  # louder than what attention adds
    experts = [p.requires_grad_() for name, p in model.named_parameters() if "experts" in name]
    optimizer = torch.optim.Adam(experts, lr=1e-2)
    following = torch.randperm(SIZES["vocab_size"])
    for _ in range(200):
        tokens = torch.randint(0, SIZES["vocab_size"], (16, 24))
        loss = torch.nn.functional.cross_entropy(model(tokens).logits.flatten(0, 1), following[tokens].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)


@torch.no_grad()
def compare(family, device):
    torch.manual_seed(1)
    model = MODELS[family]()
    with torch.enable_grad():
        teach_experts(model)
    model = model.to(device, torch.bfloat16).eval()
    prompt = torch.randint(0, SIZES["vocab_size"], (2, 12)).to(device)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0,
                "attention_mask": torch.ones_like(prompt), "output_logits": True, "return_dict_in_generate": True}
    wanted, logits = model.generate(prompt, **settings), model(prompt).logits
    best = torch.stack(wanted.logits).float().topk(2).values
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        replace_blocks(model, folder, device)
    got, difference = model.generate(prompt, **settings), (model(prompt).logits - logits).abs().max()
    for decoder in model.model.layers:  # a control: without the experts' part it is another model
        decoder.mlp.layer = lambda x, **_: torch.zeros_like(x)
    if torch.equal(model.generate(prompt, **settings).sequences, wanted.sequences):
        sys.exit(f"{family}: the tokens do not depend on the experts")
    same = torch.equal(got.sequences, wanted.sequences)
    print(f"{family} on {device}: 20 tokens of 2 prompts are {'the same' if same else 'NOT the same'}; each leads by "
          f"{(best[..., 0] - best[..., 1]).min():.2f} or more; logits of the prompts differ by up to {difference:.3f}")
    return same


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are too small for more
    where = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    same = [compare(family, where) for family in (sys.argv[2:] or MODELS)]
    sys.exit(0 if all(same) else 1)
