"""Makes logits_smollm2.{json,bin}: what Hugging Face transformers computes, in fp32, from the demo
model's dequantised weights. By hand only; needs torch, transformers, gguf and tokenizers from PyPI.
See README.md beside this file for the contents.
"""

import argparse
import importlib.metadata
import json
import pathlib

import gguf
import numpy as np
import tokenizers
import torch
import transformers

# Prompts that differ in what they exercise: prose, code with much whitespace, a chat with control
# tokens and text outside ASCII.
PROMPTS = {
    "prose": (
        "The lighthouse keeper climbed the spiral staircase every evening at dusk, carrying a lantern"
        " and a small notebook. For thirty-one years he had written down the weather, the ships that"
        " passed, and the birds that rested on the railing. On the night of the great storm of 1987,"
        " he opened the notebook and wrote"
    ),
    "code": (
        "import heapq\n\n\ndef shortest_path(graph, source):\n"
        '    """Returns the distance from source to every reachable node."""\n'
        "    distances = {source: 0}\n    queue = [(0, source)]\n    while queue:\n"
        "        distance, node = heapq.heappop(queue)\n"
        "        for neighbour, weight in graph[node].items():\n"
    ),
    "chat": (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWie heißt die Hauptstadt von Österreich? 🙂 Answer in English, in one"
        " sentence, please.<|im_end|>\n<|im_start|>assistant\n"
    ),
}
GREEDY_PROMPTS = {
    "photosynthesis": "Photosynthesis is the process by which",
    "prose": PROMPTS["prose"],
    "code": PROMPTS["code"],
    "chat": PROMPTS["chat"],
}
GREEDY_TOKENS = 48
TOP = 8  # largest logits that are kept of each position
VOCAB_STRIDE = 768  # of each position, the logit of every 768th token is kept too
WINDOWS = 4
WINDOW_TOKENS = 512


def metadata(reader, key):
    return reader.fields[key].contents()


def load_tokenizer(reader):
    """The byte-level BPE that the file's metadata describes (pre-tokenizer `smollm`)."""
    vocabulary = metadata(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in metadata(reader, "tokenizer.ggml.merges")]
    kinds = metadata(reader, "tokenizer.ggml.token_type")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges)
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens([t for t, kind in zip(vocabulary, kinds) if kind == control])
    return tokenizer


def load_model(reader):
    """transformers' Llama with the dequantised weights of the file."""
    hidden = metadata(reader, "llama.embedding_length")
    heads = metadata(reader, "llama.attention.head_count")
    kv_heads = metadata(reader, "llama.attention.head_count_kv")
    layers = metadata(reader, "llama.block_count")
    config = transformers.LlamaConfig(
        vocab_size=metadata(reader, "llama.vocab_size"),
        hidden_size=hidden,
        intermediate_size=metadata(reader, "llama.feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=metadata(reader, "llama.context_length"),
        rms_norm_eps=metadata(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": metadata(reader, "llama.rope.freq_base"),
        },
        tie_word_embeddings=True,
        attn_implementation="eager",
    )

    tensors = {
        t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32))
        for t in reader.tensors
    }

    def halves(weight, head_count):
        """GGUF permutes the rows of Q and K so that RoPE rotates (2i, 2i + 1); transformers rotates
        (i, i + d / 2)."""
        rows, columns = weight.shape
        pairs = weight.reshape(head_count, rows // head_count // 2, 2, columns)
        return pairs.transpose(1, 2).reshape(rows, columns)

    state = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "lm_head.weight": tensors["token_embd.weight"],
        "model.norm.weight": tensors["output_norm.weight"],
    }
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(layers):
        ours, theirs = f"blk.{layer}.", f"model.layers.{layer}."
        for their_name, our_name in names.items():
            state[f"{theirs}{their_name}.weight"] = tensors[f"{ours}{our_name}.weight"]
        state[theirs + "self_attn.q_proj.weight"] = halves(tensors[ours + "attn_q.weight"], heads)
        state[theirs + "self_attn.k_proj.weight"] = halves(tensors[ours + "attn_k.weight"], kv_heads)

    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    model.load_state_dict(state, strict=True)
    return model


def all_logits(model, tokens):
    return model(torch.tensor([tokens])).logits[0]


def greedy(model, tokens):
    """Greedy continuation and, at each step, how far the best logit is above the second."""
    chosen, margins, cache = [], [], None
    current = tokens
    for _ in range(GREEDY_TOKENS):
        output = model(torch.tensor([current]), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        values, ids = torch.topk(output.logits[0, -1], 2)
        chosen.append(int(ids[0]))
        margins.append(round(float(values[0] - values[1]), 5))
        current = [chosen[-1]]
    return chosen, margins


def rounded(values):
    return [round(float(v), 5) for v in values]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the demo model, as scripts/fetch_model.sh prints")
    parser.add_argument("--text", required=True, help="WikiText-2 raw test text")
    parser.add_argument("--output", default=pathlib.Path(__file__).parent, type=pathlib.Path)
    arguments = parser.parse_args()

    reader = gguf.GGUFReader(arguments.model)
    tokenizer = load_tokenizer(reader)
    model = load_model(reader)
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    binary = bytearray()
    prompts = []
    for name, text in PROMPTS.items():
        tokens = encode(text)
        logits = all_logits(model, tokens)
        values, ids = torch.topk(logits, TOP)
        sampled = logits[:, ::VOCAB_STRIDE]
        prompts.append({
            "name": name,
            "text": text,
            "tokens": tokens,
            "argmax": ids[:, 0].tolist(),
            "top_ids": ids.tolist(),
            "top_logits": [rounded(row) for row in values],
            "mean": rounded(logits.mean(dim=1)),
            "std": rounded(logits.std(dim=1, correction=0)),
            "last_row_offset": len(binary) // 4,
            "sampled_offset": len(binary) // 4 + logits.shape[1],
            "sampled_columns": sampled.shape[1],
        })
        binary += logits[-1].numpy().astype("<f4").tobytes()
        binary += sampled.contiguous().numpy().astype("<f4").tobytes()

    continuations = []
    for name, text in GREEDY_PROMPTS.items():
        tokens = encode(text)
        chosen, margins = greedy(model, tokens)
        print(f"{name}: {tokenizer.decode(chosen, skip_special_tokens=False)!r}, least margin {min(margins)}")
        continuations.append({
            "name": name,
            "prompt_tokens": tokens,
            "tokens": chosen,
            "margins": margins,
            "text": tokenizer.decode(chosen, skip_special_tokens=False),
        })

    text_tokens = encode(pathlib.Path(arguments.text).read_text(encoding="utf-8"))
    windows = []
    for i in range(WINDOWS):
        begin = i * (len(text_tokens) // WINDOWS)
        tokens = text_tokens[begin:begin + WINDOW_TOKENS]
        logits = all_logits(model, tokens)
        nll = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:]))
        windows.append({"tokens": tokens, "mean_nll": round(float(nll), 6)})
    mean_nll = float(np.mean([w["mean_nll"] for w in windows]))

    golden = {
        "model": pathlib.Path(arguments.model).resolve().name,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "gguf": importlib.metadata.version("gguf")},
        "vocab": model.config.vocab_size,
        "vocab_stride": VOCAB_STRIDE,
        "prompts": prompts,
        "continuations": continuations,
        "perplexity": {"text": "WikiText-2 raw, test", "mean_nll": round(mean_nll, 6),
                       "perplexity": round(float(np.exp(mean_nll)), 4), "windows": windows},
    }
    print({p["name"]: len(p["tokens"]) for p in prompts}, "perplexity", golden["perplexity"]["perplexity"])
    (arguments.output / "logits_smollm2.bin").write_bytes(bytes(binary))
    lines = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (arguments.output / "logits_smollm2.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
