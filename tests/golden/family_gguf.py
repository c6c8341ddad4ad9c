"""A Hugging Face folder as a GGUF file, by llama.cpp's converter: for make_families.py."""

import json

import conversion
import gguf


def convert(folder, path, pre_tokenizer, metadata):
    """Converts `folder` to `path` with the weights' own type. The converter knows pre-tokenizers by what
    they make of a text with published vocabularies: of ours it is told. `metadata` is what it leaves
    out."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    dtype = json.loads((folder / "config.json").read_text())["torch_dtype"]
    own = conversion.get_model_class(architecture)

    class Told(own):
        model_arch = own.model_arch

        def get_vocab_base_pre(self, tokenizer):
            return pre_tokenizer

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            add = {int: self.gguf_writer.add_uint32, float: self.gguf_writer.add_float32, list: self.gguf_writer.add_array}
            for key, value in metadata.items():
                add[type(value)](key, value)

    ftype = {"bfloat16": gguf.LlamaFileType.MOSTLY_BF16, "float16": gguf.LlamaFileType.MOSTLY_F16,
             "float32": gguf.LlamaFileType.ALL_F32}[dtype]
    Told(folder, ftype, path, eager=True, model_name=folder.name).write()
