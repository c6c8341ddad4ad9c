"""Makes families/: a tiny random model of each family as a Hugging Face folder and as a GGUF file, and
what Hugging Face transformers computes from it in fp32. By hand only; README.md beside this file says
what it needs and what comes of it.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers

import family_gguf
import family_tokenizers

VOCAB = family_tokenizers.VOCAB
GREEDY_TOKENS = 64
CANDIDATES = 24  # prompts of one length that are tried at once
TRIES = 40
CLOSE_EXPERT_MARGIN = 0.03  # rounding to bf16 may choose otherwise
LEAST_MARGIN = 0.01  # of a greedy choice, in deviations of its logits
LEAST_EFFECT = 0.02  # of a trait, in deviations of the logits


@dataclasses.dataclass
class Model:
    """A model to make: its config.json, in the words of those who publish such models."""

    name: str
    config: dict
    tokenizer: str  # of family_tokenizers.py
    prompts: tuple = (5, 33, 100)  # lengths
    short_context: int = 0  # up to it a model is another than beyond; 0: it is always the same
    shards: int = 1
    dtype: torch.dtype = torch.bfloat16
    gguf_metadata: dict = dataclasses.field(default_factory=dict)  # what the converter leaves out
    traits: dict = dataclasses.field(default_factory=dict)  # what else of a config would matter

    def context(self, tokens):
        """What the model is loaded for to compute so many."""
        return self.short_context if tokens <= self.short_context else self.config["max_position_embeddings"]


def llama_sizes(hidden, head_dim, **more):
    sizes = {
        "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": head_dim, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": True,
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
        **more,
    }
    if sizes["head_dim"] is None:  # hidden / heads
        del sizes["head_dim"]
    return sizes


def llama(**more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **more}


def longrope_factors(pairs, low, high):
    """Like those of Phi-3: near one for fast pairs, growing with the wavelength."""
    return [round(low + (high - low) * (i / (pairs - 1)) ** 2, 4) for i in range(pairs)]


MODELS = [
    Model(
        "llama", llama(**llama_sizes(64, 64, rope_theta=10000.0, max_position_embeddings=512, tie_word_embeddings=False)),
        "llama3", shards=2, traits={"rope": {"rope_theta": 500000.0}},
    ),
    Model(
        "llama_linear",
        llama(**llama_sizes(32, 64, rope_theta=10000.0, max_position_embeddings=512,
                            rope_scaling={"type": "linear", "factor": 4.0})),
        "llama2", dtype=torch.float32, traits={"linear": {"rope_scaling": None}},
    ),
    Model(
        "llama3",
        llama(**llama_sizes(32, 64, rope_theta=500000.0, max_position_embeddings=1024,
                            rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                          "high_freq_factor": 4.0, "original_max_position_embeddings": 128})),
        "llama3", traits={"llama3": {"rope_scaling": None}},
    ),
    Model(
        "llama_yarn",
        llama(**llama_sizes(32, 80, rope_theta=10000.0, max_position_embeddings=512,
                            rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})),
        "llama3", dtype=torch.float16, traits={"yarn": {"rope_scaling": None}},
    ),
    Model(
        "llama_bias",
        llama(**llama_sizes(32, 64, rope_theta=10000.0, max_position_embeddings=512, attention_bias=True,
                            mlp_bias=True)),
        "llama3",
    ),
    Model(
        "mistral",
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral",
         **llama_sizes(32, 96, rope_theta=10000.0, max_position_embeddings=512, sliding_window=32)},
        "llama2", prompts=(5, 33, 100, 160),
        # The converter makes a model without a window of it.
        gguf_metadata={"llama.attention.sliding_window": 32}, traits={"window": {"sliding_window": None}},
    ),
    Model(
        "mixtral",
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
         **llama_sizes(32, 64, rope_theta=1e6, max_position_embeddings=512, sliding_window=None, intermediate_size=32,
                       num_local_experts=4, num_experts_per_tok=2, output_router_logits=False,
                       router_aux_loss_coef=0.02)},
        "llama2", traits={"experts": {"num_experts_per_tok": 1}},
    ),
    Model(
        "qwen2",
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
         **llama_sizes(128, None, rope_theta=1e6, max_position_embeddings=512, use_sliding_window=False,
                       sliding_window=512, max_window_layers=2, intermediate_size=32, rms_norm_eps=1e-6)},
        "qwen2",
    ),
    Model(
        "qwen3",
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
         **llama_sizes(32, 128, rope_theta=1e6, max_position_embeddings=512, use_sliding_window=False,
                       sliding_window=None, max_window_layers=2, rope_scaling=None, rms_norm_eps=1e-6)},
        "qwen2",
    ),
    Model(
        "qwen2_window",
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
         **llama_sizes(128, None, rope_theta=1e6, max_position_embeddings=512, use_sliding_window=True,
                       sliding_window=32, max_window_layers=1, intermediate_size=32, rms_norm_eps=1e-6)},
        "qwen2",
        # The converter makes a model without windows of it.
        gguf_metadata={"qwen2.attention.sliding_window": 32,
                       "qwen2.attention.sliding_window_pattern": [False, True]},
        traits={"window": {"use_sliding_window": False}, "full layer": {"max_window_layers": 0}},
    ),
    Model(
        "qwen3_window",
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
         **llama_sizes(32, 64, rope_theta=1e6, max_position_embeddings=512, use_sliding_window=True,
                       sliding_window=32, max_window_layers=0, rope_scaling=None, rms_norm_eps=1e-6,
                       layer_types=["sliding_attention", "full_attention"])},
        "qwen2",
        gguf_metadata={"qwen3.attention.sliding_window": 32,
                       "qwen3.attention.sliding_window_pattern": [True, False]},
        traits={"window": {"layer_types": ["full_attention", "full_attention"]}},
    ),
    Model(
        "qwen3_moe",
        {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
         **llama_sizes(32, 64, rope_theta=1e6, max_position_embeddings=512, use_sliding_window=False, sliding_window=None,
                       max_window_layers=2, rope_scaling=None, num_experts=8, num_experts_per_tok=3,
                       moe_intermediate_size=32, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True,
                       output_router_logits=False, router_aux_loss_coef=0.001, rms_norm_eps=1e-6)},
        "qwen2", traits={"norm_topk_prob": {"norm_topk_prob": False}, "experts": {"num_experts_per_tok": 2}},
    ),
    Model(
        "phi3",
        {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
         **llama_sizes(128, None, rope_theta=10000.0, intermediate_size=32, max_position_embeddings=512, original_max_position_embeddings=128,
                       partial_rotary_factor=0.75, sliding_window=512, resid_pdrop=0.0, embd_pdrop=0.0,
                       rope_scaling={"type": "longrope", "short_factor": longrope_factors(24, 1.05, 2.5),
                                     "long_factor": longrope_factors(24, 1.1, 8.0)})},
        # Those whose last token is beyond the original context are computed with the long factors
        # all along, the others with the short ones; none goes from one to the other.
        "llama2", prompts=(5, 33, 64, 140, 200), short_context=128,
        traits={"longrope": {"rope_scaling": None}},
    ),
    Model(
        "gemma2",
        {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
         **llama_sizes(32, 256, rope_theta=10000.0, max_position_embeddings=512, rms_norm_eps=1e-6,
                       sliding_window=32, query_pre_attn_scalar=256, attn_logit_softcapping=3.0,
                       final_logit_softcapping=6.0, hidden_act="gelu_pytorch_tanh",
                       hidden_activation="gelu_pytorch_tanh", cache_implementation="hybrid")},
        "gemma", prompts=(5, 33, 100, 160),
        traits={"window": {"sliding_window": 500}, "attention cap": {"attn_logit_softcapping": None},
                "logit cap": {"final_logit_softcapping": None}},
    ),
    Model(
        "gemma3",
        {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
         **llama_sizes(32, 64, num_hidden_layers=7, rope_theta=1e6, rope_local_base_freq=10000.0,
                       rope_scaling={"rope_type": "linear", "factor": 8.0}, max_position_embeddings=512,
                       rms_norm_eps=1e-6, sliding_window=32, sliding_window_pattern=6, query_pre_attn_scalar=48,
                       attn_logit_softcapping=None, final_logit_softcapping=None,
                       hidden_activation="gelu_pytorch_tanh", cache_implementation="hybrid")},
        "gemma", prompts=(5, 33, 100, 160),
        # The converter leaves it to the reader to know by the layers which models' scale is not the
        # one of the head size.
        gguf_metadata={"gemma3.attention.scale": 48 ** -0.5},
        traits={"window": {"sliding_window": 500}, "scale": {"query_pre_attn_scalar": 64},
                "local base": {"rope_local_base_freq": 1e6}, "linear": {"rope_scaling": None}},
    ),
]


def tensor_shapes(config):
    """The tensors that a checkpoint of this kind has, by the names that publishers give them."""
    kind = config["model_type"]
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (VOCAB, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCAB, hidden)
    for layer in range(config["num_hidden_layers"]):
        own = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "self_attn.o_proj": (hidden, queries)}
        if kind == "phi3":
            own["self_attn.qkv_proj"] = (queries + 2 * keys, hidden)
        else:
            own |= {"self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
                    "self_attn.v_proj": (keys, hidden)}
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            own |= {"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)}
        if kind.startswith("gemma"):
            own |= {"pre_feedforward_layernorm": (hidden,), "post_feedforward_layernorm": (hidden,)}
        if kind == "mixtral":
            own["block_sparse_moe.gate"] = (config["num_local_experts"], hidden)
            for expert in range(config["num_local_experts"]):
                prefix = f"block_sparse_moe.experts.{expert}."
                own |= {prefix + "w1": (ffn, hidden), prefix + "w2": (hidden, ffn), prefix + "w3": (ffn, hidden)}
        elif kind == "qwen3_moe":
            own["mlp.gate"] = (config["num_experts"], hidden)
            width = config["moe_intermediate_size"]
            for expert in range(config["num_experts"]):
                prefix = f"mlp.experts.{expert}."
                own |= {prefix + "gate_proj": (width, hidden), prefix + "up_proj": (width, hidden),
                        prefix + "down_proj": (hidden, width)}
        elif kind == "phi3":
            own |= {"mlp.gate_up_proj": (2 * ffn, hidden), "mlp.down_proj": (hidden, ffn)}
        else:
            own |= {"mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn)}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()}
        biases = []
        if kind == "qwen2" or config["attention_bias"]:
            biases = [("self_attn.q", queries), ("self_attn.k", keys), ("self_attn.v", keys)]
        if config["attention_bias"]:
            biases.append(("self_attn.o", hidden))
        if config.get("mlp_bias"):
            biases += [("mlp.gate", ffn), ("mlp.up", ffn), ("mlp.down", hidden)]
        shapes |= {f"model.layers.{layer}.{name}_proj.bias": (size,) for name, size in biases}
    return shapes


def random_tensor(name, shape, config, random):
    """Weights with which attention looks hard at few tokens, layers outweigh the embedding, and logits
    deviate by about two."""
    normal = random.standard_normal(shape)
    if name.endswith("norm.weight") or "layernorm" in name:
        spread = 0.2 * normal
        if config["model_type"].startswith("gemma"):
            # Gemma adds one. Where post norms make modules large, the scaled embedding, which is
            # the output matrix, too, does not decide alone.
            is_post = "post_attention" in name or "post_feedforward" in name
            return 3 * is_post + spread
        return 1 + spread
    if name.endswith(".bias"):
        return 0.5 * normal
    fan_in = shape[1]
    if "embed_tokens" in name:
        scale = math.sqrt(fan_in) if not config["tie_word_embeddings"] else 2.0
        return normal * scale / math.sqrt(fan_in)
    gain = 1.0
    if any(part in name for part in ("q_proj", "k_proj", "qkv_proj")):
        gain = 1.4
    elif any(part in name for part in ("o_proj", "down_proj", ".w2.")):
        gain = 2.0
    elif "gate.weight" in name:
        gain = 1.5
    elif "lm_head" in name:
        gain = 2.0
    return normal * gain / math.sqrt(fan_in)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(model, folder):
    folder.mkdir(parents=True)
    kind = family_tokenizers.KINDS[model.tokenizer]
    names = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
    ends = {"bos_token_id": kind.id(kind.bos), "eos_token_id": kind.id(kind.eos)}
    write_json(folder / "config.json", model.config | ends | {"pad_token_id": kind.id(kind.eos), "torch_dtype": names[model.dtype]})
    write_json(folder / "generation_config.json", ends | {
        "eos_token_id": kind.end_ids, "do_sample": True, "temperature": 0.6, "top_p": 0.9})
    family_tokenizers.write(model.tokenizer, folder)

    random = np.random.default_rng([7, *model.name.encode()])
    tensors = {name: torch.from_numpy(random_tensor(name, shape, model.config, random)).to(model.dtype)
               for name, shape in tensor_shapes(model.config).items()}
    if model.shards == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(model.shards):
        file = f"model-{shard + 1:05}-of-{model.shards:05}.safetensors"
        own = names[shard * len(names) // model.shards:(shard + 1) * len(names) // model.shards]
        safetensors.torch.save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in own}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def load(folder, overrides=None, dtype=torch.float32):
    """The folder's model computed in `dtype` with eager attention, every tensor of the folder taken."""
    with tempfile.TemporaryDirectory() as own:
        own = pathlib.Path(own) / "model"
        shutil.copytree(folder, own)
        config = json.loads((own / "config.json").read_text())
        write_json(own / "config.json", config | (overrides or {}))
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            own, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, f"{folder}: {wrong}"
    return model.eval()


@contextlib.contextmanager
def half_keys_and_values(model):
    """Within it, attention sees keys and values as a cache of fp16 keeps them."""
    module = sys.modules[type(model).__module__]
    eager = module.eager_attention_forward

    def rounded(layer, query, key, value, *rest, **more):
        return eager(layer, query, key.half().float(), value.half().float(), *rest, **more)

    module.eager_attention_forward = rounded
    try:
        yield
    finally:
        module.eager_attention_forward = eager


def all_logits(model, tokens):
    """Without a cache: [batch, tokens, vocab]."""
    with half_keys_and_values(model):
        return logits_in_fp32(model, tokens)


def logits_in_fp32(model, tokens):
    return model(torch.as_tensor(tokens), use_cache=False).logits.float()


def margins(logits):
    """By how much the best logit is above the second, in deviations."""
    best = torch.topk(logits, 2, dim=-1).values
    return (best[..., 0] - best[..., 1]) / logits.std(dim=-1, correction=0)


def expert_margins(model, sequence):
    """Of each position the least lead, over all layers, of the last chosen expert over the best of the others, in
    deviations of the router's logits. Nothing for a model without experts."""
    with half_keys_and_values(model):
        layers = model(torch.as_tensor([sequence]), use_cache=False, output_router_logits=True).router_logits
    chosen = model.config.num_experts_per_tok
    leads = []
    for logits in layers:
        logits = logits.reshape(len(sequence), -1).float()
        best = torch.topk(logits, chosen + 1, dim=-1).values
        leads.append((best[:, chosen - 1] - best[:, chosen]) / logits.std(-1, correction=0))
    return torch.stack(leads).min(0).values


def find_prompt(model, bos, length, random):
    """A random prompt whose greedy continuation has no close call, and that continuation."""
    for _ in range(TRIES):
        tokens = random.integers(VOCAB, size=(CANDIDATES, length))
        if bos is not None:
            tokens[:, 0] = bos
        for _ in range(GREEDY_TOKENS):
            logits = all_logits(model, tokens)[:, -1]
            clear = (margins(logits) >= LEAST_MARGIN).numpy()
            tokens = np.concatenate([tokens, logits.argmax(-1, keepdim=True).numpy()], axis=1)[clear]
            if len(tokens) == 0:
                break
        if len(tokens) > 0:
            # The continuation with the most different tokens tells most.
            best = max(range(len(tokens)), key=lambda i: len(set(tokens[i, length:].tolist())))
            return tokens[best]
    sys.exit(f"no prompt of {length} tokens whose continuation has margins of {LEAST_MARGIN}")


def check_cached(model, prompt, expected):
    """transformers' cache of keys and values, windows and all, changes nothing."""
    cache, tokens, chosen = None, prompt, []
    for _ in range(GREEDY_TOKENS):
        with half_keys_and_values(model):
            output = model(torch.as_tensor([tokens]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens = [int(output.logits[0, -1].argmax())]
        chosen += tokens
    assert chosen == expected, f"generation with a cache differs: {chosen} instead of {expected}"


def bf16_effect(folder, prompts, binary):
    """How far transformers in bf16 is from `prompts`, in deviations, where no choice of an expert is close."""
    model = load(folder, dtype=torch.bfloat16)
    worst = 0
    for prompt in prompts:
        rows = [row for row in prompt["rows"]
                if prompt.get("expert_margins", [1] * (row + 1))[row] >= CLOSE_EXPERT_MARGIN]
        logits = logits_in_fp32(model, [prompt["tokens"] + prompt["continuation"][:-1]])[0]
        expected = torch.frombuffer(binary, dtype=torch.float32)[prompt["logits_offset"]:].reshape(-1, VOCAB)
        for row in rows:
            at = prompt["rows"].index(row)
            worst = max(worst, float((logits[row] - expected[at]).abs().max()) / prompt["deviations"][at])
    return worst


def check_traits(model, folder, sequence, logits):
    """What the family is about changes what is computed."""
    for name, overrides in model.traits.items():
        other = all_logits(load(folder, overrides), [sequence])[0]
        effect = float(((other - logits).abs().max(-1).values / logits.std(-1, correction=0)).max())
        print(f"    without its {name}: {effect:.3f} deviations")
        assert effect > LEAST_EFFECT, f"{model.name}: {name} changes next to nothing"


def write_expected(model, folder, output):
    computed = load(folder)
    kind = family_tokenizers.KINDS[model.tokenizer]
    random = np.random.default_rng([11, *model.name.encode()])
    binary = bytearray()
    prompts = []
    for length in model.prompts:
        tokens = find_prompt(computed, kind.id(kind.bos), length, random)
        sequence = tokens[:-1].tolist()  # what the last token follows
        logits = all_logits(computed, [sequence])[0]
        expected = tokens[length:].tolist()
        assert logits[length - 1:].argmax(-1).tolist() == expected
        check_cached(computed, sequence[:length], expected)
        exact = logits_in_fp32(computed, [sequence])[0]
        assert exact[length - 1:].argmax(-1).tolist() == expected, "keys and values of fp32 decide otherwise"
        fp16_effect = float(((exact - logits).abs().max(-1).values / logits.std(-1, correction=0)).max())
        rows = sorted({0, length // 2, length - 1, length + GREEDY_TOKENS // 2, len(sequence) - 1})
        prompts.append({
            "tokens": sequence[:length],
            "context": model.context(len(tokens)),
            "continuation": expected,
            "argmax": logits.argmax(-1).tolist(),
            "margins": [round(float(m), 4) for m in margins(logits)],
            "rows": rows,
            "deviations": [round(float(d), 6) for d in logits[rows].std(-1, correction=0)],
            "logits_offset": len(binary) // 4,
        })
        if hasattr(computed.config, "num_experts_per_tok"):
            prompts[-1]["expert_margins"] = [round(float(m), 4) for m in expert_margins(computed, sequence)]
        binary += logits[rows].numpy().astype("<f4").tobytes()
        least = min(prompts[-1]["margins"][length - 1:])
        print(f"    {length} tokens: deviations {min(prompts[-1]['deviations']):.2f} to {max(prompts[-1]['deviations']):.2f},"
              f" {len(set(expected))} different tokens follow, least margin {least}; fp32 keys and values: {fp16_effect:.4f} away")
    print(f"    bf16: {bf16_effect(folder, prompts, binary):.3f} away")
    check_traits(model, folder, sequence, logits)
    (output / f"{model.name}.logits").write_bytes(bytes(binary))
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        "vocab": VOCAB,
        "prompts": prompts,
    }
    (output / f"{model.name}.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=pathlib.Path(__file__).parent / "families", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="only these models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(exist_ok=True)
    for model in MODELS:
        if arguments.names and model.name not in arguments.names:
            continue
        print(model.name, flush=True)
        folder = arguments.output / model.name
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(model, folder)
        family_gguf.convert(folder, arguments.output / f"{model.name}.gguf",
                            family_tokenizers.KINDS[model.tokenizer].pre, model.gguf_metadata)
        write_expected(model, folder, arguments.output)


if __name__ == "__main__":
    main()
