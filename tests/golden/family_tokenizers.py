"""The small tokenizers of the models that make_families.py makes, as files of a Hugging Face folder."""

import dataclasses
import io
import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, processors, trainers

import make_tokenizers

VOCAB = 384  # tokens of each

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim +"
    " '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


@dataclasses.dataclass
class Kind:
    """A kind of tokenizer: byte-level BPE if it names a pre-tokenizer, else SentencePiece's."""

    special: tuple  # control tokens: first of SentencePiece's vocabulary, last of others
    bos: str  # "": prompts begin without
    eos: str
    end_of_turn: str = ""
    pre: str = ""  # as GGUF files call it
    chat_template: str = ""
    space_prefix: bool = False  # a text begins with a space

    def id(self, token):
        if not token:
            return None
        place = self.special.index(token)
        return place if not self.pre else VOCAB - len(self.special) + place

    @property
    def end_ids(self):
        return [self.id(token) for token in (self.eos, self.end_of_turn) if token]


KINDS = {
    "llama3": Kind(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "llama-bpe", LLAMA3_CHAT),
    "qwen2": Kind(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "", "<|endoftext|>", "<|im_end|>", "qwen2", CHATML),
    "llama2": Kind(("<unk>", "<s>", "</s>"), "<s>", "</s>", space_prefix=True),
    "gemma": Kind(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>",
        chat_template=GEMMA_CHAT),
}

# Texts of few different characters, so that all of them become tokens.
TEXTS = [text for text in make_tokenizers.CORPUS if text.isascii()]


def byte_level(kind):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = make_tokenizers.pre_tokenizer(kind.pre)
    tokenizer.train_from_iterator(make_tokenizers.CORPUS, trainers.BpeTrainer(
        vocab_size=VOCAB - len(kind.special), show_progress=False,
        initial_alphabet=make_tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.decoder = decoders.ByteLevel()
    if kind.pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(list(kind.special))
    return tokenizer


def sentencepiece_model(kind):
    unk = kind.special.index("<unk>")
    pad = kind.special.index("<pad>") if "<pad>" in kind.special else -1
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(TEXTS).split("\n")), model_writer=model, model_type="bpe", vocab_size=VOCAB,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, add_dummy_prefix=kind.space_prefix,
        unk_id=unk, bos_id=kind.id(kind.bos), eos_id=kind.id(kind.eos), pad_id=pad, bos_piece=kind.bos,
        eos_piece=kind.eos, control_symbols=[t for t in kind.special if t.endswith("of_turn>")], minloglevel=2)
    return model.getvalue()


def merges_of(processor):
    """What tokenizer.json needs beside SentencePiece's pieces: the pairs that make each, in the order of
    the pieces' scores."""
    ids = {processor.id_to_piece(i): i for i in range(VOCAB)}
    merges = []
    for piece, i in ids.items():
        if processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i):
            continue
        for cut in range(1, len(piece)):
            if piece[:cut] in ids and piece[cut:] in ids:
                merges.append((-processor.get_score(i), ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:]))
    return [(left, right) for _, _, _, left, right in sorted(merges)]


def from_sentencepiece(kind, model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = {processor.id_to_piece(i): i for i in range(VOCAB)}
    tokenizer = tokenizers.Tokenizer(models.BPE(
        vocab=vocabulary, merges=merges_of(processor), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if kind.space_prefix else replace
    own = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(own + [decoders.Strip(" ", 1, 0)] if kind.space_prefix else own)
    tokenizer.add_special_tokens(list(kind.special))
    for text in make_tokenizers.CORPUS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == processor.encode(text), text
    return tokenizer


def write(name, folder):
    """Writes tokenizer.json, tokenizer_config.json and, of SentencePiece's kind, tokenizer.model."""
    kind = KINDS[name]
    if kind.pre:
        tokenizer = byte_level(kind)
    else:
        model = sentencepiece_model(kind)
        (folder / "tokenizer.model").write_bytes(model)
        tokenizer = from_sentencepiece(kind, model)
    assert tokenizer.get_vocab_size() == VOCAB
    for token in kind.special:
        assert tokenizer.token_to_id(token) == kind.id(token), token
    if kind.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", pair=f"{kind.bos} $A {kind.bos} $B", special_tokens=[(kind.bos, kind.id(kind.bos))])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": bool(kind.bos), "add_eos_token": False,
        "added_tokens_decoder": {
            str(kind.id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                              "special": True} for t in kind.special},
        "bos_token": kind.bos or None, "eos_token": kind.eos, "clean_up_tokenization_spaces": False,
        "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if "<unk>" in kind.special:
        config["unk_token"] = "<unk>"
    if kind.chat_template:
        config["chat_template"] = kind.chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
