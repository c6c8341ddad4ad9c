#!/usr/bin/env python3
"""Times PyTorch's dense decode attention (scaled_dot_product_attention through cuDNN and through
flash attention) at the shapes of decode_attention_benchmark: CUDA graph replays over several
layers' keys and values, medians. Prints a table, writes JSON to the file named by the argument."""

import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [  # batch, context, heads, kv_heads, head_dim
    (8, 16384, 32, 32, 128),
    (16, 16384, 32, 32, 128),
    (4, 16384, 32, 32, 128),
    (16, 4096, 32, 32, 128),
    (1, 65536, 32, 32, 128),
    (16, 32768, 32, 8, 128),
    (64, 4096, 9, 3, 64),
]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
LAYERS = 2
REPLAYS = 15


def seconds(backend, batch, context, heads, kv_heads, head_dim):
    def random(count, length):
        return torch.randn(batch, count, length, head_dim, device="cuda", dtype=torch.float16)

    layers = [(random(heads, 1), random(kv_heads, context), random(kv_heads, context))
              for _ in range(LAYERS)]

    def step():
        for q, k, v in layers:
            torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)

    with sdpa_kernel(backend):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    times = []
    for i in range(REPLAYS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) / 1e3 / LAYERS)
    return statistics.median(times)


def main():
    results = []
    for shape in SHAPES:
        batch, context, heads, kv_heads, head_dim = shape
        for name, backend in BACKENDS.items():
            try:
                time = seconds(backend, *shape)
            except RuntimeError as error:
                print(f"{shape} {name}: {str(error).splitlines()[0]}", flush=True)
                continue
            finally:
                torch.cuda.empty_cache()
            print(f"{batch:5} {context:7} {heads:3}/{kv_heads:<2} {head_dim:4} {name:6}"
                  f" {time * 1e6:8.1f} us", flush=True)
            results.append({"batch": batch, "context": context, "heads": heads,
                            "kv_heads": kv_heads, "head_dim": head_dim, "backend": name,
                            "seconds": time})
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                       "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
