"""Makes tokenizer_json.json and tokenizer_model.json: tokenizers of the kinds that models publish,
with small vocabularies trained here, and what Hugging Face tokenizers and SentencePiece make of
texts with them. By hand only; needs what make_tokenizers.py needs. See README.md beside this file.
"""

import base64
import collections
import io
import json
import pathlib
import random
import tempfile
import unicodedata

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_tokenizers import (
    CORPUS,
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    TEXTS,
    UNREACHABLE,
    random_texts,
    write,
)

RANDOM_SEED = 20241130
RANDOM_TEXTS = 2000
BATCH = 10

CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
SMALL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{CASED}*{SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{CASED}+{SMALL}*|\p{{N}}" + REST
)
GPT4O_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{CASED}*{SMALL}+{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{CASED}+{SMALL}*{SUFFIX}"
    r"|\p{N}{1,3}" + REST
)
# As DeepSeek publishes them; the second is matched by no scanner of ours.
DEEPSEEK_PATTERNS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

# Unigram models of the library take the spelling of a byte token for the byte; ours do not.
KEPT_TEXTS = [t for t in TEXTS if "<0x" not in t]

SPELLINGS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<s>", "</s>",
    "<unk>", "<|user|>", "<|end|>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<tool_call>",
    "light", "lights", "▁▁", "\n\n", "\n\n\n", "ａ", "Ｋ", "①",
]  # fmt: skip


def texts(rng):
    """Half of the random texts have spellings of special tokens in them."""
    made = []
    for i, text in enumerate(random_texts(rng, RANDOM_TEXTS)):
        if i % 2 == 0:
            at = rng.randint(0, len(text))
            between = rng.choice(["", "", " ", "  \n", "x"])
            text = text[:at] + rng.choice(SPELLINGS) + between + rng.choice(SPELLINGS) + text[at:]
        made.append(text)
    return KEPT_TEXTS + made


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior=behavior, invert=invert)


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def added(content, special=True, **marks):
    return tokenizers.AddedToken(content, special=special, **({"normalized": False} | marks))


def add(tokenizer, tokens):
    for token in tokens:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])


def byte_bpe(pre_tokenizer, special, normalizer=None, ignore_merges=False, bos=None):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=460,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(trained["vocab"], key=trained["vocab"].get) + UNREACHABLE
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(vocabulary)},
            merges=[tuple(m) for m in trained["merges"]],
            ignore_merges=ignore_merges,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    add(tokenizer, special)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            ),
        ])
    return tokenizer


def common_characters(count):
    """Chosen here: of characters that come up equally often, the trainer takes any."""
    counts = collections.Counter("".join(CORPUS).replace(" ", "▁"))
    return sorted(counts, key=lambda c: (-counts[c], c))[:count]


def trained_pieces(vocab_size):
    """Tokens and merges within words that begin with U+2581, of characters that come up often."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=common_characters(90),
            limit_alphabet=90,
            show_progress=False,
        ),
    )
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(trained["vocab"], key=trained["vocab"].get)
    return vocabulary, [tuple(m) for m in trained["merges"]]


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def piece_bpe(first, special, normalizer, pre_tokenizer, decoder, bos, more=(), byte_fallback=True):
    vocabulary, merges = trained_pieces(420)
    runs = ["▁" * n for n in range(2, 9)]
    merges += [("▁" * (n // 2), "▁" * (n - n // 2)) for n in range(2, 9)]
    tokens = list(first) + list(more) + (BYTES if byte_fallback else [])
    tokens += [t for t in runs + vocabulary if t not in tokens]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    add(tokenizer, special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def mark_spaces():
    return normalizers.Replace(" ", "▁")


def prepended():
    return normalizers.Sequence([normalizers.Prepend("▁"), mark_spaces()])


def piece_decoder(strip):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


LLAMA_SPECIAL = [added("<unk>"), added("<s>"), added("</s>")]


def llama2(**options):
    return piece_bpe(
        ["<unk>", "<s>", "</s>"],
        **({
            "special": LLAMA_SPECIAL,
            "normalizer": prepended(),
            "pre_tokenizer": None,
            "decoder": piece_decoder(strip=True),
            "bos": "<s>",
        } | options),
    )


def metaspace(scheme, splits):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=splits)


def unigram(byte_fallback, scheme):
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    # Beyond two digits, scores of characters that are rare, and so their order, differ from run to
    # run.
    pieces = [[token, round(score, 2)] for token, score in vocabulary[3:]]
    vocabulary = vocabulary[:3] + sorted(pieces, key=lambda piece: (-piece[1], piece[0]))
    if byte_fallback:
        vocabulary += [[token, 0.0] for token in BYTES]
    tokenizer = tokenizers.Tokenizer(
        models.Unigram([tuple(v) for v in vocabulary], unk_id=2, byte_fallback=byte_fallback)
    )
    tokenizer.pre_tokenizer = metaspace(scheme, splits=True)
    tokenizer.decoder = (
        piece_decoder(strip=True) if byte_fallback else decoders.Metaspace(prepend_scheme=scheme)
    )
    add(tokenizer, [added("<pad>"), added("</s>"), added("<unk>")])
    return tokenizer


def steps(normalizer, pre_tokenizer, byte_fallback=True):
    """A tokenizer for the sake of its steps; its decoder gives tokens as they are spelled."""
    return llama2(
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        decoder=piece_decoder(strip=False),
        byte_fallback=byte_fallback,
    )


def make_models():
    sequence = pre_tokenizers.Sequence
    punctuation, digits = pre_tokenizers.Punctuation, pre_tokenizers.Digits
    phi3 = [added(t, rstrip=True) for t in ["<|user|>", "<|end|>", "<|endoftext|>"]]
    yield "gpt2", byte_bpe(
        byte_level(use_regex=True), [added("<|endoftext|>", normalized=True)]
    )
    yield "gpt2 with a space in front", byte_bpe(
        byte_level(use_regex=True, add_prefix_space=True), [added("<|endoftext|>", lstrip=True)]
    )
    yield "smollm", byte_bpe(
        sequence([digits(individual_digits=True), byte_level(use_regex=True)]),
        [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>")],
    )
    yield "llama3", byte_bpe(
        sequence([split(LLAMA3_PATTERN), byte_level()]),
        [added("<|begin_of_text|>"), added("<|eot_id|>")],
        ignore_merges=True,
        bos="<|begin_of_text|>",
    )
    yield "qwen2", byte_bpe(
        sequence([split(QWEN2_PATTERN), byte_level()]),
        [
            added("<|endoftext|>"),
            added("<|im_start|>"),
            added("<|im_end|>"),
            added("<tool_call>", special=False),
            added("Ａ" + "\u212b", special=False, normalized=True),
        ],
        normalizer=normalizers.NFC(),
    )
    yield "tekken", byte_bpe(
        sequence([split(TEKKEN_PATTERN), byte_level()]),
        [added("<unk>"), added("<s>"), added("</s>"), added("[INST]"), added("[/INST]")],
        ignore_merges=True,
        bos="<s>",
    )
    yield "gpt4o", byte_bpe(
        sequence([split(GPT4O_PATTERN, "removed", invert=True), byte_level()]),
        [added("<|endoftext|>"), added("<|user|>"), added("<|end|>")],
    )
    yield "deepseek", byte_bpe(
        sequence([split(p) for p in DEEPSEEK_PATTERNS] + [byte_level()]),
        [added("<|begin_of_text|>"), added("<|user|>", special=False, normalized=True)],
        bos="<|begin_of_text|>",
    )
    yield "llama2", llama2()
    yield "llama2, not as before 2023", llama2(
        normalizer=None, pre_tokenizer=metaspace("first", splits=False)
    )
    yield "mistral", llama2(
        special=LLAMA_SPECIAL + [added("[INST]"), added("[/INST]")],
        normalizer=None,
        pre_tokenizer=metaspace("first", splits=False),
        more=["[INST]", "[/INST]"],
    )
    yield "phi3", llama2(special=LLAMA_SPECIAL + phi3)
    yield "gemma", piece_bpe(
        ["<pad>", "<eos>", "<bos>", "<unk>"],
        [added(t) for t in ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]]
        + [added(t, special=False) for t in ["\n\n", "\n\n\n", "▁▁", "▁▁▁"]],
        mark_spaces(),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        piece_decoder(strip=False),
        "<bos>",
        more=["<start_of_turn>", "\n\n", "\n\n\n", "▁▁", "▁▁▁"],
    )
    yield "words that strip and stand alone", llama2(
        special=LLAMA_SPECIAL + [
            added("light", special=False, single_word=True),
            added("lights", special=False, lstrip=True, rstrip=True),
            added("[inst]", special=False, normalized=True, lstrip=True),
        ],
        normalizer=normalizers.Sequence([normalizers.Lowercase(), mark_spaces()]),
    )
    yield "unigram", unigram(byte_fallback=False, scheme="never")
    yield "unigram with bytes", unigram(byte_fallback=True, scheme="always")
    yield "nfkc, strip, whitespace", steps(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]),
        pre_tokenizers.Whitespace(),
    )
    yield "nfd, accents, words between whitespace", steps(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        pre_tokenizers.WhitespaceSplit(),
    )
    yield "nfkd, strip right, punctuation", steps(
        normalizers.Sequence([normalizers.NFKD(), normalizers.Strip(left=False)]),
        sequence([punctuation("isolated"), digits()]),
    )
    yield "replaced matches, removed punctuation", steps(
        normalizers.Replace(tokenizers.Regex(r"\s+|[aeiou]"), "_"), punctuation("removed")
    )
    yield "contiguous", steps(None, sequence([punctuation("contiguous"), split(r"\w", "contiguous")]))
    yield "merged with previous", steps(
        None,
        sequence([punctuation("merged_with_previous"), split("s", "merged_with_previous", True)]),
    )
    yield "merged with next, unknown characters", steps(
        None, sequence([punctuation("merged_with_next"), split(r"(?=\p{Lu})")]), byte_fallback=False
    )


def fnv(numbers, value=0xCBF29CE484222325):
    """FNV-1a of 64 bits over numbers of 32 bits, little endian."""
    for number in numbers:
        for shift in range(0, 32, 8):
            value = ((value ^ (number >> shift & 0xFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def digests(rows):
    """Of every BATCH rows of numbers, each ended by a number that is none."""
    return [
        f"{fnv(n for row in rows[i : i + BATCH] for n in [*row, 0xFFFFFFFF]):016x}"
        for i in range(0, len(rows), BATCH)
    ]


def describe(name, tokenizer, all_texts):
    tokenizer.encode_special_tokens = False
    tokens = [tokenizer.encode(t, add_special_tokens=False).ids for t in all_texts]
    decoded = [list(tokenizer.decode(t, skip_special_tokens=True).encode()) for t in tokens]
    described = {
        "name": name,
        "tokenizer": json.loads(tokenizer.to_str()),
        "prefix": tokenizer.encode("").ids,
        "tokens": tokens[: len(KEPT_TEXTS)],
        "token_digests": digests(tokens),
        "decoded_digests": digests(decoded),
    }
    # Unigram models find the spellings of control tokens in text, too, which Winnow never does.
    if described["tokenizer"]["model"]["type"] != "Unigram":
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(t, add_special_tokens=False).ids for t in all_texts]
        described["plain_digests"] = digests(plain)
    return described


def character_rules(all_texts):
    """Rules of a normaliser in SentencePiece's words: compatible characters of the texts, letters with
    accents, small letters in place of large Greek ones; marks become nothing, and tabs spaces."""
    rules = {"\t": " ", "\u3000": " ", "\ufdfa": unicodedata.normalize("NFKC", "\ufdfa"), "\u00ad": "", "\u200b": ""}
    for character in sorted(set("".join(all_texts))):
        plain = unicodedata.normalize("NFKC", character)
        if plain != character and "  " not in plain:
            rules[character] = plain
        if "GREEK CAPITAL" in unicodedata.name(character, ""):
            rules[character] = character.lower()
        parts = unicodedata.normalize("NFD", character)
        if parts != character:
            rules[parts] = character
    rules |= {"e\u0301\u0302": "E", "fi": "\ufb01"}
    return "".join("\t".join(" ".join(f"{ord(c):X}" for c in text) for text in rule) + "\n"
                   for rule in sorted(rules.items()))


def character_map(model):
    """The precompiled_charsmap in a model: field 2 of its field 3."""
    def fields(message):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = message[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return value

        while at < len(message):
            key = varint()
            if key & 7 == 0:
                varint()
                continue
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            yield key >> 3, message[at : at + size]
            at += size

    normalizer = next(value for field, value in fields(model) if field == 3)
    return next(value for field, value in fields(normalizer) if field == 2)


def train_sentencepiece(model_type, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).split("\n")),
        model_writer=model,
        model_type=model_type,
        vocab_size=600 if options.get("byte_fallback") else 340,
        hard_vocab_limit=model_type == "bpe",
        character_coverage=0.98,
        minloglevel=2,
        **({
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
        } | options),
    )
    return model.getvalue()


def sentencepiece_model(name, model_type, all_texts, **options):
    model = train_sentencepiece(model_type, **options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokens = [processor.encode(t) for t in all_texts]
    # Unknown characters come back as " ⁇ ", which is no text, and marks of spaces that a text
    # itself begins with are dropped by some models: not compared.
    known = [
        ids if processor.unk_id() not in ids and "▁▁" not in text else []
        for ids, text in zip(tokens, all_texts)
    ]
    return {
        "name": name,
        "model": base64.b64encode(model).decode(),
        "tokens": tokens[: len(KEPT_TEXTS)],
        "token_digests": digests(tokens),
        "decoded_digests": digests([list(processor.decode(t).encode()) for t in known]),
    }


def with_rules(all_texts, folder, **options):
    path = pathlib.Path(folder) / "rules.tsv"
    path.write_text(character_rules(all_texts), encoding="utf-8")
    return {"normalization_rule_tsv": str(path), "remove_extra_whitespaces": True} | options


def mapping_tokenizer(all_texts):
    """As transformers makes one of a SentencePiece model with a map."""
    with tempfile.TemporaryDirectory() as folder:
        model = train_sentencepiece("unigram", **with_rules(all_texts, folder))
    tokenizer = unigram(byte_fallback=True, scheme="always")
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(character_map(model)), normalizers.Strip(left=False),
        normalizers.Replace(tokenizers.Regex(" {2,}"), "▁"),
    ])
    return tokenizer


def make_sentencepiece_models(all_texts):
    yield sentencepiece_model("bpe with bytes", "bpe", all_texts, byte_fallback=True)
    yield sentencepiece_model(
        "bpe with user-defined pieces",
        "bpe",
        all_texts,
        user_defined_symbols=["<|im_start|>", "light", "\n\n", "▁▁"],
    )
    yield sentencepiece_model(
        "unigram that removes spaces", "unigram", all_texts, remove_extra_whitespaces=True
    )
    yield sentencepiece_model(
        "unigram with bytes", "unigram", all_texts, byte_fallback=True, add_dummy_prefix=False
    )
    with tempfile.TemporaryDirectory() as folder:
        yield sentencepiece_model(
            "unigram that maps characters", "unigram", all_texts, **with_rules(all_texts, folder)
        )
        yield sentencepiece_model(
            "bpe with bytes that maps characters", "bpe", all_texts,
            **with_rules(all_texts, folder, byte_fallback=True),
        )


def main():
    all_texts = texts(random.Random(RANDOM_SEED))
    write("tokenizer_json.json", ["tokenizers"], {
        "batch": BATCH,
        "texts": all_texts,
        "models": [
            describe(name, t, all_texts)
            for name, t in [*make_models(), ("unigram that maps characters", mapping_tokenizer(all_texts))]
        ],
    })
    write("tokenizer_model.json", ["sentencepiece"], {
        "models": list(make_sentencepiece_models(all_texts)),
    })


if __name__ == "__main__":
    main()
