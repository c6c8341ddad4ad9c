"""Makes answer_scores.json: how LongBench scores answers (its evaluation's qa_f1_score and
rouge_score, written down again here; exact match is SQuAD's on the same normalised texts). By hand only;
needs rouge from PyPI. See README.md beside this file.
"""

import collections
import importlib.metadata
import json
import pathlib
import random
import re
import string

import rouge

ARTICLES = re.compile(r"\b(a|an|the)\b")

PAIRS = [
    ("Paris", "Paris"),
    ("The answer is Paris.", "paris"),
    ("Paris, France", "the Paris of France"),
    ("a an the", "the"),
    ("", "something"),
    ("something", ""),
    ("...", "!!!"),
    ("An apple a day keeps the doctor away", "a doctor is kept away by the apple"),
    ("the theatre, the thesis and an anthem", "theatre thesis anthem"),
    ("It's John's dog", "its johns dog"),
    ("well-known state-of-the-art", "well known state of the art"),
    ("42", "42.0"),
    ("one one one two", "one two two"),
    ("ÄPFEL und STRASSE", "äpfel und straße"),
    ("ΟΔΟΣ ΣΟΦΙΑΣ", "οδος σοφιας"),
    ("the—lighthouse “a” keeper", "lighthouse keeper"),
    ("naïve café", "naïve cafe\u0301"),
    ("東京 は 日本 の 首都", "日本 の 首都 は 東京"),
    ("  spaces \t and\nlines\r\n ", "spaces and lines"),
    ("nbsp\u00a0here\u3000there", "nbsp here there"),
    ("The cat sat on the mat. It was warm.", "It was a warm mat. The cat sat there."),
    ("police killed the gunman", "the gunman killed police"),
    ("w1 w2 w3 w4 w5.", "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5."),
    ("a b c d e f g", "a c e g b d f"),
    ("first. second. third.", "third. second. first."),
    ("x y x y x y", "y x y x"),
    ("Version 1.5 was out in 3.2 days", "version 1.5 in 3.2 days"),
    ("The committee approved the budget of $3.5 million. Members voted 7-2. The mayor will sign it on Monday.",
     "The budget was approved 7-2 by the committee. It is $3.5 million. On Monday the mayor will sign it."),
]
WORDS = ["the", "a", "an", "ship", "ships", "night", "Light", "keeper", "wrote", "down", "and", "in", "1987", "it's",
         "storm.", "sea,", "End.", "(old)"]


def normalize(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", text).split())


def f1(answer, expected):
    answer, expected = normalize(answer).split(), normalize(expected).split()
    common = sum((collections.Counter(answer) & collections.Counter(expected)).values())
    if common == 0:
        return 0
    precision, recall = common / len(answer), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer, expected):
    try:
        return rouge.Rouge().get_scores([answer], [expected], avg=True)["rouge-l"]["f"]
    except (ValueError, ZeroDivisionError):  # of nothing, LongBench scores nothing
        return 0


def main():
    rng = random.Random(5)
    pairs = list(PAIRS)
    for _ in range(80):
        pairs.append(tuple(" ".join(rng.choices(WORDS, k=rng.randint(1, 25))) for _ in range(2)))
    cases = [{
        "answer": answer,
        "expected": expected,
        "normalized": normalize(answer),
        "f1": f1(answer, expected),
        "exact_match": float(normalize(answer) == normalize(expected)),
        "rouge_l": rouge_l(answer, expected),
    } for answer, expected in pairs]
    path = pathlib.Path(__file__).parent / "answer_scores.json"
    golden = {"versions": {"rouge": importlib.metadata.version("rouge")}, "cases": cases}
    path.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
