#!/usr/bin/env python3
"""Writes dequantize.json: stored bytes of every tensor type and the fp32 values they stand for.

The values come from the `gguf` Python package (pip install gguf==0.19.0), which is independent of
Winnow. Run by hand: python3 tests/golden/make_dequantize.py
"""

import json
import pathlib

import gguf
import numpy as np

Type = gguf.GGMLQuantizationType
rng = np.random.default_rng(20240607)


def random_weights(columns: int) -> np.ndarray:
    return (rng.standard_normal(columns) * 0.05).astype(np.float32)


def random_k_blocks(kind: Type, blocks: int, scale_offsets: list[int]) -> np.ndarray:
    """Random codes and group scales; fp16 scales of a real model's size, one of them subnormal."""
    data = rng.integers(0, 256, (blocks, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for offset in scale_offsets:
        scales = (rng.standard_normal((blocks, 1)) * 0.01).astype(np.float16)
        scales[-1] = np.float16(3e-6)
        data[:, offset : offset + 2] = scales.view(np.uint8)
    return data.reshape(-1)


def edge_halves() -> np.ndarray:
    """Zeros, subnormals, the smallest and largest normal numbers, infinities, a quiet NaN."""
    edges = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
    return np.array(edges, dtype=np.uint16)


def stored_bytes(kind: Type) -> np.ndarray:
    if kind in (Type.Q4_K, Type.Q5_K):
        return random_k_blocks(kind, 3, [0, 2])
    if kind == Type.Q6_K:
        return random_k_blocks(kind, 3, [208])
    if kind == Type.F16:
        halves = np.concatenate([edge_halves(), random_weights(21).astype(np.float16).view(np.uint16)])
        return halves.view(np.uint8)
    weights = random_weights(96)
    return gguf.quants.quantize(weights, kind).view(np.uint8)


def main() -> None:
    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
    cases = []
    for name in kinds:
        data = stored_bytes(Type[name])
        values = gguf.quants.dequantize(data, Type[name]).astype("<f4")
        cases.append(
            {
                "type": name,
                "columns": values.size,
                "stored_hex": data.tobytes().hex(),
                "fp32_hex": values.tobytes().hex(),
            }
        )
    path = pathlib.Path(__file__).with_name("dequantize.json")
    path.write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
