"""Makes tokenizer_smollm2.json, tokenizer_bpe.json, tokenizer_sentencepiece.json and
pretokenizer.json: what Hugging Face tokenizers and SentencePiece make of texts. By hand only; needs
tokenizers, sentencepiece and gguf from PyPI. See README.md beside this file.
"""

import argparse
import importlib.metadata
import io
import json
import pathlib
import random
import unicodedata

import gguf
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent

RANDOM_SEED = 20240611
RANDOM_TEXTS = 300
RANDOM_DECODES = 60

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

# Made up for these files, so that there is nothing to license.
CORPUS = [
    "The lighthouse keeper counted the ships that passed in the night, and wrote their names down.",
    "She sells sea shells by the shore; the shells that she sells aren't seashells, I'm sure.",
    "We've been told they'll come when it's dark, but he'd rather they didn't.",
    "In 1987 there were 365 days, 52 weeks and 12 months, as in every other common year.",
    "def area(width, height):\n    \"\"\"The area of a rectangle.\"\"\"\n    return width * height\n",
    "for (int i = 0; i < count; ++i) {\n\tsum += values[i];\n}\n\nreturn sum;\n",
    "Der Leuchtturmwärter zählte die Schiffe, die nachts vorüberfuhren, und schrieb ihre Größe auf.",
    "Le gardien du phare comptait les navires qui passaient la nuit, près de la côte, à l'été.",
    "El guardián del faro contaba los barcos que pasaban de noche; ¿cuántos había en mayo?",
    "Смотритель маяка считал корабли, которые проходили ночью, и записывал их имена.",
    "灯台守は夜に通る船を数えて、その名前を書きとめた。",
    "守灯塔的人每天晚上数经过的船，并把它们的名字写下来。",
    "등대지기는 밤에 지나가는 배를 세고 그 이름을 적었다.",
    "كان حارس المنارة يعد السفن التي تمر في الليل ويكتب أسماءها.",
    "प्रकाशस्तंभ का रखवाला रात में गुज़रने वाले जहाज़ों को गिनता था।",
    "Ο φύλακας του φάρου μετρούσε τα πλοία που περνούσαν τη νύχτα.",
    "the the the that that there their them then these those this thus   and    and     and",
    "3.14159 2.71828 1,000,000 42% 0xFF 10:30 2024-06-11 +49 30 123456",
]

TEXTS = [
    "",
    " ",
    "  ",
    "   \n",
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    "\t\t\tif x:\n\t\t\t\treturn\n",
    "a",
    "Hello world",
    " Hello  world   ",
    "Hello, world! How are you?",
    "I'm sure they'll say we've won; it's what he'd do, isn't it? You're right.",
    "I'M SURE THEY'LL SAY WE'VE WON; IT'S WHAT HE'D DO, YOU'RE RIGHT.",
    "'s 't 're 've 'm 'll 'd 'S 'LL 'Ve 'x ' '' '\u017f O'Neill rock'n'roll",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000 0x1F 10^-3 \u00bd \u00b2\u00b3 \u216b \u0663\u0664\u0665",
    "x=1;y=22;z=333 abc123def456",
    "snake_case camelCase PascalCase kebab-case path/to/file.txt https://a.b/c?d=e&f=g#h",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x ** 2}  # note\n\n\nclass A:\n        pass\n",
    "#include <vector>\nint main() { return !(1 << 3 >= 4 && 5 != 6) ? 0 : -1; }\r\n",
    "<div class=\"a\">&nbsp;&lt;b&gt;</div>\n<!-- c -->",
    "SELECT * FROM t WHERE a = 'b' AND c <> \"d\"; -- e",
    "Fußgängerübergänge über Größe, Straße, Äpfel; ÄÖÜ",
    "à la carte, déjà vu, naïve façade, œuvre, Ça va",
    "¿Dónde está el baño? ¡Aquí! mañana año",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. İstanbul ığüşöç",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ЁЖ",
    "Ο φύλακας του φάρου μετρούσε τα πλοία.",
    "我喜欢学习自然语言处理。今天天气很好，我们去公园散步吧！",
    "吾輩は猫である。名前はまだ無い。ひらがな カタカナ ﾊﾝｶｸ １２３",
    "안녕하세요 세계! 한국어 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "مرحبا بالعالم، كيف حالك؟ السَّلَامُ عَلَيْكُمْ",
    "שלום עולם! בְּרֵאשִׁית",
    "नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय ज़िन्दगी",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "Xin chào thế giới, tiếng Việt có dấu",
    "ሰላም ልዑል ქართული հայերեն ༄༅། བོད་",
    "🙂 😀😃😄 ❤️ ✨🎉",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👨🏽‍💻 🇦🇹🇯🇵 👍🏿 1️⃣ #️⃣",
    "cafe\u0301 vs caf\u00e9, A\u030a vs \u00c5 vs \u212b, q\u0307\u0323 vs q\u0323\u0307, \u0344 \u1e9b\u0323",
    "Z\u0335\u0321\u0322a\u0334\u0316l\u0337\u0330g\u0336\u0317o\u0338\u0331",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom soft\u00adhyphen \u2060",
    "nbsp\u00a0here\u00a0\u00a0there \u2003em\u2009thin\u3000ideographic\u1680ogham\u205f\u202f.",
    "line\u2028separator\u2029paragraph\u0085next\u000bvertical\u000cform",
    "\u0000\u0001\u0002\u001b[0m\u007f\u0080\u009f",
    "\ufffd \ufffe \ue000 \U000f0000 \U0010fffd",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 ﬁ ﬂ ﬆ ß ẞ Ⅷ ① ㊿ ½",
    "\u2018quotes\u2019 \u201cdouble\u201d \u00abguillemets\u00bb \u2014 dashes \u2013 ellipsis\u2026",
    "a\n b\n  c\n   d\n\n e \n \n f\t\n\tg",
    "trailing spaces   ",
    "\n   leading newline and spaces",
    "a \t b \t\t c\t \td",
    "!!!??? ...,,, ---___=== ***///\\\\\\ ((())) [[[]]] {{{}}} @#$%^&*~`|",
    "!\n?\r\n#\n\n ;\n",
    "<|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a<|endoftext|>b<|endoftext|><|endoftext|> c",
    "<|im_start| im_end|> <|im_<|im_end|> <|endoftext|",
    "</s> <s> <unk> <0x0A> <0xFF>",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 300,
    "ab" * 150 + " " + "xyz" * 70,
    " " * 130 + "x",
    "\n" * 70,
    "=" * 150,
    "7" * 100,
    "ha" * 20 + "é" * 40 + "漢" * 40 + "🙂" * 12,
    "The quick brown fox jumps over the lazy dog. " * 4,
]

# Tokens that no merge makes: whether a pre-tokenizer's model takes them for whole words differs.
UNREACHABLE = ["xyzzy", "Ġlighthouses", "ĠΟ", "================"]

def random_texts(rng, count=RANDOM_TEXTS):
    """Texts whose neighbours in kind are likely to be what patterns tell apart."""

    def drawn(categories, count):
        # The libraries' tables are of different versions of Unicode; they agree on old characters.
        old = unicodedata.ucd_3_2_0
        found = [chr(c) for c in range(0x80, 0x20000) if old.category(chr(c)) in categories]
        return rng.sample(found, count)

    kinds = [
        list("abcxyzABCXYZ"),
        list(" ") * 6 + ["  ", "   ", "\t"],
        ["\n", "\r", "\r\n", "\n\n", " \n", "\n "],
        ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'Re", "'VE", "'lL", "'\u017f", "'", "'r"],
        list("0123456789"),
        list("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~"),
        drawn({"Lu", "Ll", "Lt", "Lm", "Lo"}, 150),
        drawn({"Nd", "Nl", "No"}, 80),
        drawn({"Mn", "Mc", "Me"}, 60),
        drawn({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"}, 80),
        list("\u0085\u00a0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000\u000b\u000c\u001c\u001f"),
        list("\u200b\u200c\u200d\ufeff\u2060\u00ad\u0000\u007f\ue000\ufffd\u180e"),
    ]
    texts = []
    for _ in range(count):
        # Few kinds in a text, so that their boundaries come up often.
        chosen = rng.sample(kinds, rng.randint(2, 4))
        texts.append("".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(2, 16))))
    return texts


def split(pattern):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def pre_tokenizer(name):
    """As the models' tokenizer.json files have it; every word comes out one character a byte."""
    return {
        "gpt-2": lambda: byte_level(use_regex=True),
        "smollm": lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]
        ),
        "llama-bpe": lambda: pre_tokenizers.Sequence(
            [split(LLAMA3_PATTERN), byte_level(use_regex=False)]
        ),
        "qwen2": lambda: pre_tokenizers.Sequence(
            [split(QWEN2_PATTERN), byte_level(use_regex=False)]
        ),
    }[name]()


def encode_cases(tokenizer, texts):
    """Both ways to read the spellings of special tokens; `plain` only where it differs."""
    cases = []
    for text in texts:
        tokenizer.encode_special_tokens = False
        case = {"text": text, "tokens": tokenizer.encode(text, add_special_tokens=False).ids}
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        if plain != case["tokens"]:
            case["plain"] = plain
        cases.append(case)
    return cases


def smollm2(model_path, rng, texts):
    fields = gguf.GGUFReader(model_path).fields
    vocabulary = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizer("smollm")
    tokenizer.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens([t for t, kind in zip(vocabulary, kinds) if kind == control])

    decodes = []
    # Tokens of one byte each come early in the vocabulary; they make broken characters.
    single = [i for i, t in enumerate(vocabulary) if len(t) == 1]
    for _ in range(RANDOM_DECODES):
        ids = [
            rng.choice(single) if rng.random() < 0.6 else rng.randrange(len(vocabulary))
            for _ in range(rng.randint(1, 20))
        ]
        decodes.append({
            "tokens": ids,
            "text": tokenizer.decode(ids, skip_special_tokens=True),
            "special": tokenizer.decode(ids, skip_special_tokens=False),
        })
    return {
        "cases": encode_cases(tokenizer, texts),
        "decodes": decodes,
    }


def bpe(name, vocab_size, texts):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(trained["vocab"], key=trained["vocab"].get)
    merges = [tuple(m) for m in trained["merges"]]
    vocabulary += UNREACHABLE
    ignore_merges = name == "llama-bpe"
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(vocabulary)},
            merges=merges,
            ignore_merges=ignore_merges,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(special)
    return {
        "pre": name,
        "tokens": vocabulary,
        "special": special,
        "merges": [" ".join(m) for m in merges],
        "cases": encode_cases(tokenizer, texts),
    }


def sentencepiece_model(name, texts, user_defined=(), **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).split("\n")),
        model_writer=model,
        model_type="bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=list(user_defined),
        minloglevel=2,
        **options,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def kind(i):
        if processor.is_unknown(i):
            return gguf.TokenType.UNKNOWN
        if processor.is_control(i):
            return gguf.TokenType.CONTROL
        if processor.is_byte(i):
            return gguf.TokenType.BYTE
        if processor.id_to_piece(i) in user_defined:
            return gguf.TokenType.USER_DEFINED
        return gguf.TokenType.NORMAL

    ids = range(processor.get_piece_size())
    return {
        "name": name,
        "tokens": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids],
        "types": [int(kind(i)) for i in ids],
        "add_space_prefix": options["add_dummy_prefix"],
        "cases": [
            {"text": t, "tokens": e, "decoded": processor.decode(e)}
            for t in texts
            for e in [processor.encode(t)]
        ],
    }


def write(name, packages, data):
    versions = {p: importlib.metadata.version(p) for p in packages}
    text = json.dumps({"versions": versions} | data, ensure_ascii=False, separators=(",", ":"))
    path = HERE / name
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", required=True, help="the demo model's GGUF file")
    model_path = arguments.parse_args().model

    rng = random.Random(RANDOM_SEED)
    texts = TEXTS + random_texts(rng)
    some = TEXTS + texts[len(TEXTS) :: 6]

    write("pretokenizer.json", ["tokenizers"], {
        "texts": texts,
        # Lengths in bytes of a text's words, which together are the text.
        "word_bytes": {
            name: [[len(w) for w, _ in pre.pre_tokenize_str(t)] for t in texts]
            for name in ["gpt-2", "smollm", "llama-bpe", "qwen2"]
            for pre in [pre_tokenizer(name)]
        },
    })
    demo = smollm2(model_path, rng, some)
    write("tokenizer_smollm2.json", ["tokenizers", "gguf"], demo)
    write("tokenizer_bpe.json", ["tokenizers"], {
        "models": [bpe(name, 480, some) for name in ["gpt-2", "llama-bpe", "qwen2"]]
    })
    write("tokenizer_sentencepiece.json", ["sentencepiece"], {
        "models": [
            sentencepiece_model(
                "byte fallback and a leading space",
                some,
                vocab_size=700,
                byte_fallback=True,
                add_dummy_prefix=True,
                character_coverage=0.98,
            ),
            sentencepiece_model(
                "neither bytes nor a leading space, with user-defined pieces",
                some,
                user_defined=("<|im_start|>", "<|im_end|>", "lighthouse", "light"),
                vocab_size=400,
                byte_fallback=False,
                add_dummy_prefix=False,
                character_coverage=0.98,
            ),
        ]
    })


if __name__ == "__main__":
    main()
