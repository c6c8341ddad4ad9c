"""Makes quantised models in families/ and the matrices in quantized.json, with what the libraries that
define their formats make of them. By hand only; README.md beside this file says what it needs and what
comes of it.
"""

import argparse
import base64
import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile

import compressed_tensors.quantization as ct
import numpy as np
import safetensors.torch
import torch
from compressed_tensors.compressors import FloatQuantizationCompressor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import make_families

E4M3_MAX = 448.0
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the outputs in a word, from its lowest bits
GROUP = 32


def load_source(path):
    """A module of a package that as a whole can't be imported without a GPU."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fp8:
    """8-bit floats. `blocks` are None for a scale for each row, (0, 0) for one for all."""

    def __init__(self, method, blocks=None, scale_dtype=torch.bfloat16, scale_shape=None, static=False):
        self.method, self.blocks, self.scale_dtype, self.static = method, blocks, scale_dtype, static
        self.scale_shape = scale_shape

    def arguments(self):
        strategy = {None: "channel", (0, 0): "tensor"}.get(self.blocks, "block")
        blocks = {"block_structure": list(self.blocks)} if strategy == "block" else {}
        return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "dynamic": False, **blocks}

    def config(self):
        if self.method == "fp8":
            blocks = {} if self.blocks == (0, 0) else {"weight_block_size": list(self.blocks)}
            return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "static" if self.static else "dynamic", **blocks}
        group = {"targets": ["Linear"], "weights": self.arguments(), "output_activations": None,
                 "input_activations": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}}
        return {"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
                "kv_cache_scheme": None, "ignore": ["lm_head"], "config_groups": {"group_0": group}}

    def quantise(self, weight):
        rows, columns = weight.shape
        height, width = {None: (1, columns), (0, 0): (rows, columns)}.get(self.blocks, self.blocks)
        scale = torch.stack([torch.stack([part.abs().max() for part in band.split(width, 1)])
                             for band in weight.split(height, 0)]) / E4M3_MAX
        scale = scale.to(self.scale_dtype)
        spread = scale.float().repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]
        codes = (weight / spread).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
        return self.pack(codes, scale)

    def pack(self, codes, scale):
        name = "weight_scale_inv" if self.method == "fp8" and self.blocks != (0, 0) else "weight_scale"
        if name == "weight_scale_inv":
            expected = Fp8Dequantize(None)._dequantize_one(codes, scale, torch.float32)
        else:
            scheme = ct.QuantizationScheme(targets=["Linear"], weights=ct.QuantizationArgs(**self.arguments()))
            expected = FloatQuantizationCompressor.decompress(
                {"weight": codes, "weight_scale": scale.float()}, scheme)["weight"]
        tensors = {"weight": codes, name: scale if self.scale_shape is None else scale.reshape(self.scale_shape)}
        if self.static:
            tensors["input_scale"] = torch.tensor([0.05])
        return tensors, expected


def round_in_groups(weight, bits, group_of, least_zero):
    """Codes [rows, columns], and zero points and scales of each group [rows, groups]."""
    most = 2 ** bits - 1
    codes, zeros, scales = torch.empty_like(weight), [], []
    for group in range(int(group_of.max()) + 1):
        own = group_of == group
        low, high = weight[:, own].amin(1).clamp(max=0), weight[:, own].amax(1).clamp(min=0)
        scale = ((high - low) / most).half().float()
        zero = (-low / scale).round().clamp(least_zero, most)
        codes[:, own] = ((weight[:, own] / scale[:, None]).round() + zero[:, None]).clamp(0, most)
        zeros.append(zero)
        scales.append(scale)
    return codes, torch.stack(zeros, 1), torch.stack(scales, 1)


class Awq:
    library = None

    def __init__(self, group=GROUP):
        self.group = group

    def config(self):
        return {"quant_method": "awq", "bits": 4, "group_size": self.group, "version": "gemm", "zero_point": True,
                "modules_to_not_convert": None}

    def quantise(self, weight):
        group = weight.shape[1] if self.group < 0 else self.group
        codes, zeros, scales = round_in_groups(weight, 4, torch.arange(weight.shape[1]) // group, 0)

        def packed(numbers):
            words = numbers.numpy().astype(np.uint32).reshape(numbers.shape[0], -1, 8)[:, :, AWQ_ORDER]
            words = (words << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
            return torch.from_numpy(words.view(np.int32).copy())

        tensors = {"qweight": packed(codes.t()), "qzeros": packed(zeros.t()), "scales": scales.t().half().contiguous()}
        expected = self.library.dequantize_gemm(tensors["qweight"], tensors["qzeros"], tensors["scales"].float(), 4, group)
        return tensors, expected.t().contiguous()


class Gptq:
    library = None

    def __init__(self, bits=4, group=GROUP, permuted=False, has_groups=True, zero_biases=False):
        self.bits, self.group, self.permuted, self.has_groups = bits, group, permuted, has_groups
        self.zero_biases = zero_biases
        self.random = np.random.default_rng([3, bits])

    def config(self):
        return {"quant_method": "gptq", "bits": self.bits, "group_size": self.group, "desc_act": self.permuted,
                "sym": False, "true_sequential": True, "damp_percent": 0.01, "checkpoint_format": "gptq"}

    def quantise(self, weight):
        rows, columns = weight.shape
        size = columns if self.group < 0 else self.group
        group_of = torch.arange(columns) // size
        if self.permuted:
            group_of = group_of[torch.from_numpy(self.random.permutation(columns))]
        # Version 1 of the format can't write a zero point of 0.
        codes, zeros, scales = round_in_groups(weight, self.bits, group_of, 1)
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = (codes - zeros[:, group_of]) * scales[:, group_of]
        layer = self.library.QuantLinear(self.bits, size, columns, rows, bias=False, weight_dtype=torch.float32)
        layer.pack(linear, scales, zeros, group_of.int())
        expected = layer(torch.eye(columns)).t().contiguous()
        tensors = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(), "g_idx": layer.g_idx}
        if not self.has_groups:
            del tensors["g_idx"]
        if self.zero_biases:  # older versions of the library write them everywhere
            tensors["bias"] = torch.zeros(rows, dtype=torch.float16)
        return tensors, expected


def family(name, base, **more):
    model = next(model for model in make_families.MODELS if model.name == base)
    return dataclasses.replace(model, name=name, traits={}, shards=1, **more)


def models():
    return [
        (family("llama_fp8", "llama"), Fp8("compressed-tensors")),
        (family("qwen3_fp8", "qwen3"), Fp8("fp8", (128, 128))),
        (family("mixtral_awq", "mixtral", dtype=torch.float16), Awq()),
        (family("llama_gptq", "llama", dtype=torch.float16), Gptq(permuted=True)),
        (family("qwen2_gptq8", "qwen2", dtype=torch.float16), Gptq(bits=8, zero_biases=True)),
    ]


def is_quantised(name):
    """Matrices within layers, but for routers."""
    return name.endswith("_proj.weight") or ".experts." in name


def write_model(model, form, folder, plain):
    """Quantised into `folder`, and into `plain` what the quantised weights stand for."""
    random = np.random.default_rng([7, *model.name.encode()])
    stored, meant = {}, {}
    for name, shape in make_families.tensor_shapes(model.config).items():
        tensor = torch.from_numpy(make_families.random_tensor(name, shape, model.config, random)).to(model.dtype)
        if not is_quantised(name):
            stored[name], meant[name] = tensor, tensor.float()
            continue
        tensors, meant[name] = form.quantise(tensor.float())
        module = name.removesuffix("weight")
        # Biases that the model has come behind their matrices.
        stored |= {module + end: tensor.contiguous() for end, tensor in tensors.items()}
    for path, tensors, more in ((folder, stored, {"quantization_config": form.config()}), (plain, meant, {})):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        make_families.write_json(path / "config.json", model.config | {"torch_dtype": "float16"} | more)
        safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def all_codes():
    """Every 8-bit float, NaN among them."""
    codes = torch.arange(256, dtype=torch.uint8).reshape(8, 32).view(torch.float8_e4m3fn)
    return Fp8("fp8", (0, 0), torch.float32).pack(codes, torch.tensor([[0.3]]))


def matrices():
    random = np.random.default_rng(5)

    def case(name, form, rows, columns):
        weight = torch.from_numpy(random.standard_normal((rows, columns))).float()
        return name, form.config(), *form.quantise(weight)

    yield "fp8 codes", Fp8("fp8", (0, 0)).config(), *all_codes()
    yield case("fp8 tensor", Fp8("fp8", (0, 0), torch.float32, (), static=True), 12, 20)
    yield case("fp8 channel", Fp8("compressed-tensors", None, torch.float16), 12, 20)
    yield case("fp8 channel vector", Fp8("compressed-tensors", None, scale_shape=(-1,)), 12, 20)
    yield case("fp8 blocks", Fp8("fp8", (8, 16), torch.float32), 16, 48)
    yield case("fp8 cut blocks", Fp8("compressed-tensors", (8, 16)), 20, 40)
    yield case("awq", Awq(), 24, 96)
    yield case("awq one group", Awq(-1), 8, 64)
    yield case("gptq", Gptq(), 32, 96)
    yield case("gptq permuted", Gptq(permuted=True), 32, 96)
    yield case("gptq without g_idx", Gptq(has_groups=False), 32, 64)
    yield case("gptq one group", Gptq(group=-1, has_groups=False), 32, 64)
    yield case("gptq 8 bits", Gptq(bits=8, permuted=True), 32, 64)
    # Version 2 stores zero points as they are.
    name, config, tensors, expected = case("gptq version 2", Gptq(), 32, 64)
    tensors["qzeros"] = tensors["qzeros"] + 0x11111111
    yield name, config | {"checkpoint_format": "gptq_v2"}, tensors, expected


def encoded(tensor):
    return base64.b64encode(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else
                            tensor.numpy().tobytes()).decode()


def write_matrices(path):
    names = {torch.float8_e4m3fn: "F8_E4M3", torch.int32: "I32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
    cases = []
    for name, config, tensors, expected in matrices():
        stored = {end: {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data": encoded(tensor)}
                  for end, tensor in tensors.items()}
        cases.append({"name": name, "quantization_config": config, "tensors": stored, "shape": list(expected.shape),
                      "expected": encoded(expected)})
    path.write_text(json.dumps({"versions": versions(), "cases": cases}, indent=1) + "\n")


def versions():
    own = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "compressed-tensors")}
    return own | {"autoawq": "0.2.9", "auto-gptq": "0.7.1"}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoawq", type=pathlib.Path, required=True, help="its source package, unpacked")
    parser.add_argument("--autogptq", type=pathlib.Path, required=True, help="its package, unpacked")
    parser.add_argument("names", nargs="*", help="only these models")
    arguments = parser.parse_args()
    Awq.library = load_source(arguments.autoawq / "awq/utils/packing_utils.py")
    Gptq.library = load_source(arguments.autogptq / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    torch.set_num_threads(1)
    own = pathlib.Path(__file__).parent
    if not arguments.names:
        write_matrices(own / "quantized.json")
    for model, form in models():
        if arguments.names and model.name not in arguments.names:
            continue
        print(model.name, flush=True)
        with tempfile.TemporaryDirectory() as plain:
            plain = pathlib.Path(plain) / "model"
            write_model(model, form, own / "families" / model.name, plain)
            make_families.write_expected(model, plain, own / "families")


if __name__ == "__main__":
    sys.exit(main())
