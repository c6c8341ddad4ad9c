#!/usr/bin/env python3
"""Seconds until a server listens with a Hugging Face folder of 13.5 GB, against reading its files:

    loadtest/gpu/startup.py WINNOW TOKENIZER_FOLDER FOLDER [SERVE_FLAGS...]

FOLDER is written: Llama-2-7B's geometry, random bf16 weights, the tokenizer of TOKENIZER_FOLDER
(such as tests/golden/families/llama). `cold` is after the files have left the page cache.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

LAYERS, HIDDEN, FFN, VOCAB = 32, 4096, 11008, 32000
SHARD_BYTES = 5 << 30
ROUNDS = 2


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", (HIDDEN,)
        for name in "qkvo":
            yield f"{prefix}self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            yield f"{prefix}mlp.{name}_proj.weight", (FFN, HIDDEN)
        yield f"{prefix}mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def write_shard(path, entries):
    header, offset = {}, 0
    for name, shape in entries:
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # The high bytes make numbers of 0.008 to 0.03, of either sign.
    block = bytearray(random.Random(len(entries)).randbytes(1 << 26))
    block[1::2] = block[1::2].translate(bytes(0x3C | (byte & 0x80) for byte in range(256)))
    with open(path, "wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset > 0:
            offset -= file.write(memoryview(block)[:min(offset, len(block))])
        os.fsync(file.fileno())


def write(folder, tokenizer):
    folder.mkdir(parents=True)
    shards, used = [[]], 0
    for name, shape in tensors():
        if used > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append((name, shape))
        used += 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    weight_map = {}
    for i, entries in enumerate(shards):
        file_name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / file_name, entries)
        weight_map |= {name: file_name for name, _ in entries}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "bos_token_id": 1, "eos_token_id": 2}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def forget(files):
    os.sync()
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_to_read(files):
    begin = time.monotonic()
    subprocess.run(["cat", *files], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def seconds_to_listen(command):
    begin = time.monotonic()
    server = subprocess.Popen([*command, "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"],
                              stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if "event=listening" in line:
            break
        if "event=loaded" not in line:
            print(line.rstrip(), file=sys.stderr)
    else:
        sys.exit("startup: the server did not start")
    seconds = time.monotonic() - begin
    server.terminate()
    server.communicate()
    return seconds


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[3])
    command = [sys.argv[1], "serve", "--model", folder, *sys.argv[4:]]
    try:
        write(folder, pathlib.Path(sys.argv[2]))
        files = sorted(folder.glob("*.safetensors"))
        gigabytes = sum(path.stat().st_size for path in files) / 1e9
        for cold in (False, True):
            for _ in range(ROUNDS):
                times = []
                for measure, of in ((seconds_to_read, files), (seconds_to_listen, command)):
                    if cold:
                        forget(files)
                    times.append(measure(of))
                read, listen = times
                print(f"{'cold' if cold else 'cached'}: read in {read:.2f} s ({gigabytes / read:.2f} GB/s), listening after "
                      f"{listen:.2f} s, {listen / read:.2f} of that", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
