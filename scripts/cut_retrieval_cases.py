#!/usr/bin/env python3
"""Cuts line-retrieval cases down to fewer lines, for models that manage no more.

    scripts/cut_retrieval_cases.py 16 50_lines.jsonl > 16_lines.jsonl
    scripts/cut_retrieval_cases.py 16 50_lines.jsonl 5 > 16_lines.jsonl   # five cases of each

Keeps the line that is asked for and others at random, in their order; the same for every run.
"""

import json
import pathlib
import random
import sys


def cut(case, lines, seed):
    prompt = case["prompt"].split("\n")
    places = [i for i, line in enumerate(prompt) if line.startswith("line ")]
    name = case["correct_line"].split(":")[0] + ":"
    (wanted,) = [i for i in places if prompt[i].startswith(name)]
    others = [i for i in places if i != wanted]
    kept = {wanted, *random.Random(seed).sample(others, lines - 1)}
    left = "\n".join(line for i, line in enumerate(prompt) if i not in places or i in kept)
    return case | {"prompt": left, "num_lines": lines}


def main():
    lines, path = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    cases = path.read_text(encoding="utf-8").splitlines()
    for repeat in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1):
        for seed, text in enumerate(cases, repeat * len(cases)):
            print(json.dumps(cut(json.loads(text), lines, seed)))


if __name__ == "__main__":
    main()
