#!/usr/bin/env python3
"""Writes a model of Llama-2-7B's geometry with random bf16 weights and another model's tokenizer,
so that a server can be measured without a download:

    loadtest/gpu/synthetic_gguf.py TOKENIZER.gguf MODEL.gguf

The vocabulary is that of TOKENIZER.gguf, of which only the metadata is read. All matrices begin
with the same numbers, as those of `--model synthetic:llama-2-7b` do.
"""

import math
import random
import struct
import sys

LAYERS, HIDDEN, FFN, HEADS, CONTEXT = 32, 4096, 11008, 32, 4096
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
F32, BF16 = 0, 30
ALIGNMENT = 32
REPEAT = (1 << 24) + 1


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class Metadata:
    """The metadata at the head of a GGUF file, as raw bytes by key."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read(64 << 20)
        _, _, _, count = struct.unpack_from("<4sIQQ", self.data)
        self.at = 24
        self.values = {}
        for _ in range(count):
            key = self.take_string().decode()
            begin = self.at
            self.skip_value(self.take("<I"))
            self.values[key] = self.data[begin : self.at]

    def take(self, layout):
        value = struct.unpack_from(layout, self.data, self.at)[0]
        self.at += struct.calcsize(layout)
        return value

    def take_string(self):
        length = self.take("<Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip_value(self, kind):
        if kind == STRING:
            self.take_string()
        elif kind == ARRAY:
            element, count = self.take("<I"), self.take("<Q")
            for _ in range(count):
                self.skip_value(element)
        else:
            self.at += SCALAR_BYTES[kind]


def tensors(vocab):
    """Names and shapes, outermost dimension first."""
    yield "token_embd.weight", (vocab, HIDDEN)
    for layer in range(LAYERS):
        for part, shape in {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN, HIDDEN),
            "attn_v": (HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }.items():
            yield f"blk.{layer}.{part}.weight", shape
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (vocab, HIDDEN)


def random_bf16(count):
    """Numbers of both signs between 1/128 and 1/32: with a mean square of about 1 / HIDDEN,
    activations stay in range from layer to layer. They repeat after REPEAT."""
    bits = int.from_bytes(random.Random(1).randbytes(2 * REPEAT), "little")
    free = int.from_bytes(struct.pack("<H", 0x80FF) * REPEAT, "little")  # all but the exponent
    exponent = int.from_bytes(struct.pack("<H", 0x3C00) * REPEAT, "little")
    numbers = (bits & free | exponent).to_bytes(2 * REPEAT, "little")
    return numbers * -(-count // REPEAT)


def main(tokenizer_path, path):
    tokenizer = {
        key: value
        for key, value in Metadata(tokenizer_path).values.items()
        if key.startswith("tokenizer.")
    }
    vocab = struct.unpack_from("<Q", tokenizer["tokenizer.ggml.tokens"], 8)[0]
    metadata = {
        "general.architecture": struct.pack("<I", STRING) + string("llama"),
        "general.name": struct.pack("<I", STRING) + string("synthetic Llama 2 7B"),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", FLOAT32, 1e-5),
        "llama.rope.freq_base": struct.pack("<If", FLOAT32, 1e4),
    } | tokenizer
    for key, value in {
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": HIDDEN // HEADS,
        "vocab_size": vocab,
    }.items():
        metadata[f"llama.{key}"] = struct.pack("<II", UINT32, value)

    matrix = memoryview(random_bf16(max(vocab, FFN) * HIDDEN))
    ones = memoryview(struct.pack("<f", 1.0) * HIDDEN)

    shapes = list(tensors(vocab))
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), len(metadata))
    header += b"".join(string(key) + value for key, value in metadata.items())
    offset = 0
    contents = []
    for name, shape in shapes:
        kind, element, source = (BF16, 2, matrix) if len(shape) == 2 else (F32, 4, ones)
        size = math.prod(shape) * element
        header += string(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        header += struct.pack("<IQ", kind, offset)
        contents.append(source[:size])
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as file:
        file.write(header + b"\0" * (-len(header) % ALIGNMENT))
        for content in contents:
            file.write(content)
            file.write(b"\0" * (-len(content) % ALIGNMENT))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
