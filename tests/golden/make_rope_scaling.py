#!/usr/bin/env python3
"""Writes rope_scaling.json: frequencies and magnitudes of every kind of RoPE scaling, computed by
Hugging Face transformers.

    make_rope_scaling.py > tests/golden/rope_scaling.json
"""

import json
import sys

import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def unscaled(base, dim):
    return [base ** (-2.0 * i / dim) for i in range(dim // 2)], 1.0


def factors(dim, growth):
    """Longrope's, of the kind that files have: from 1 upward."""
    return [round(1 + growth * i * i / dim, 4) for i in range(dim // 2)]


CASES = [
    ("plain 64", {"type": "none", "base": 10000.0, "dim": 64}),
    ("linear", {"type": "linear", "base": 10000.0, "dim": 128, "factor": 4.0}),
    ("Llama 3.1", {"type": "llama3", "base": 500000.0, "dim": 128, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_context": 8192}),
    ("Llama 3.2", {"type": "llama3", "base": 500000.0, "dim": 64, "factor": 32.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_context": 8192}),
    ("Llama 3, a short context", {"type": "llama3", "base": 10000.0, "dim": 16, "factor": 4.0,
                                  "low_freq_factor": 1.0, "high_freq_factor": 3.0, "original_context": 32}),
    ("YaRN, Qwen 2.5", {"type": "yarn", "base": 1000000.0, "dim": 128, "factor": 4.0,
                        "original_context": 32768}),
    ("YaRN, Llama 2", {"type": "yarn", "base": 10000.0, "dim": 128, "factor": 16.0, "original_context": 4096}),
    ("YaRN, other turns", {"type": "yarn", "base": 10000.0, "dim": 64, "factor": 8.0, "original_context": 2048,
                           "beta_fast": 16.0, "beta_slow": 2.0}),
    ("YaRN, its own magnitude", {"type": "yarn", "base": 10000.0, "dim": 64, "factor": 8.0,
                                 "original_context": 2048, "attention_factor": 1.25}),
    ("YaRN, not truncated", {"type": "yarn", "base": 150000.0, "dim": 64, "factor": 32.0,
                             "original_context": 4096, "truncate": False}),
    ("YaRN, a short context", {"type": "yarn", "base": 10000.0, "dim": 16, "factor": 2.0, "original_context": 8}),
    ("YaRN, no factor", {"type": "yarn", "base": 10000.0, "dim": 16, "factor": 1.0, "original_context": 64}),
    ("longrope, long", {"type": "longrope", "base": 10000.0, "dim": 96, "short_factor": factors(96, 0.01),
                        "long_factor": factors(96, 1.3), "original_context": 4096, "context": 131072}),
    ("longrope, short", {"type": "longrope", "base": 10000.0, "dim": 96, "short_factor": factors(96, 0.01),
                         "long_factor": factors(96, 1.3), "original_context": 4096, "context": 4096}),
    ("longrope, its own magnitude",
     {"type": "longrope", "base": 10000.0, "dim": 48, "short_factor": factors(48, 0.02),
      "long_factor": factors(48, 0.7), "original_context": 4096, "context": 16384, "attention_factor": 1.5}),
]


def compute(scaling):
    kind, base, dim = scaling["type"], scaling["base"], scaling["dim"]
    if kind == "none":
        return unscaled(base, dim)
    original = scaling.get("original_context", 4096)
    context = scaling.get("context", round(original * scaling.get("factor", 1)))
    names = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate",
             "attention_factor", "short_factor", "long_factor")
    stated = {name: scaling[name] for name in names if name in scaling}
    stated.update(rope_type=kind, rope_theta=base)
    if kind != "linear":
        stated["original_max_position_embeddings"] = original
    config = LlamaConfig(hidden_size=dim * 2, num_attention_heads=2, head_dim=dim, max_position_embeddings=context,
                         rope_theta=base, rope_scaling=stated)
    config.original_max_position_embeddings = original
    length = context if kind == "longrope" else None
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return [float(f) for f in frequencies], float(magnitude)


def main():
    cases = []
    for name, scaling in CASES:
        frequencies, magnitude = compute(scaling)
        cases.append({"name": name, "scaling": scaling, "frequencies": frequencies, "magnitude": magnitude})
    json.dump({"transformers": transformers.__version__, "cases": cases}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
