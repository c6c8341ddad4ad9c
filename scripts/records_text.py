#!/usr/bin/env python3
"""Interleaves prose with records and questions about them that are answered.

    records_text.py PROSE > TEXT

Attention that looks up what a text said before is rare in prose, and labels calibrated on prose alone serve it worse. Every few
paragraphs a table of made-up records follows, in one of several notations, and then answers about records of this and earlier
tables, and words of an earlier paragraph again. Half of the text is the prose; the same for every run.
"""

import pathlib
import random
import re
import sys

PROSE_CHARACTERS = 2500  # between two tables
RECORDS = (12, 40)  # of a table, from and below
REMEMBERED = 150  # latest records that answers are about
ANSWERS = 16  # after each table

# A record, and an answer about it.
NOTATIONS = [
    ("{key}: {field} = {value}", "What is the {field} of {key}? The {field} of {key} is {value}."),
    ("- {key} | {field} | {value}", "{field} of {key}: {value}"),
    ('{{"name": "{key}", "{field}": "{value}"}}', 'In the entry whose name is "{key}", {field} is "{value}".'),
    ("{key},{field},{value}", "Entry {key} has the {field} {value}."),
    ("The {field} of {key} is <{value}>.", "Tell me the {field} of {key}. It is <{value}>."),
    ("[{key}] {field} -> {value}", "[{key}]? {value}"),
]


class Chance:
    """Choices from random() alone, the one sequence that Python promises not to change."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def below(self, n):
        return int(self._random.random() * n)

    def one_of(self, items):
        return items[self.below(len(items))]

    def some_of(self, items, count):
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(min(count, len(rest)))]


class Records:
    def __init__(self, prose, chance):
        self._chance = chance
        self._words = sorted({word.lower() for word in re.findall(r"\b[A-Za-z]{4,10}\b", prose)})
        self._names = sorted(set(re.findall(r"(?<=[a-z] )[A-Z][a-z]{3,9}\b", prose)))

    def _key(self):
        chance, words, names = self._chance, self._words, self._names
        style = chance.below(4)
        if style == 0:
            return f"{chance.one_of(names)} {chance.one_of(names)}"
        if style == 1:
            return f"{chance.one_of(words)}-{chance.one_of(words)}"
        if style == 2:
            return f"{chance.one_of(words)}_{chance.below(100)}"
        return chance.one_of(names)

    def _value(self):
        chance, words = self._chance, self._words
        style = chance.below(5)
        if style < 3:
            return str(chance.below(10 ** (2 + chance.below(4))))
        if style == 3:
            return f"{chance.one_of(words)} {chance.one_of(words)}"
        return f"{1900 + chance.below(130)}-{1 + chance.below(12):02}-{1 + chance.below(28):02}"

    def table(self):
        """Lines of a table, and an answer about each."""
        notation, answer = self._chance.one_of(NOTATIONS)
        field = self._chance.one_of(self._words)
        first, end = RECORDS
        entries = [
            {"key": self._key(), "field": field, "value": self._value()}
            for _ in range(first + self._chance.below(end - first))
        ]
        return [notation.format(**e) for e in entries], [answer.format(**e) for e in entries]


def main():
    prose = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    chance = Chance(7)
    records = Records(prose, chance)
    remembered = []
    before = []
    part = 0
    for paragraph in filter(None, prose.split("\n")):
        print(paragraph)
        part += len(paragraph)
        if part < PROSE_CHARACTERS:
            continue
        part = 0
        lines, answers = records.table()
        remembered = (remembered + answers)[-REMEMBERED:]
        print(*lines, *chance.some_of(remembered, ANSWERS), sep="\n")
        if before:
            print(*re.split(r"(?<=\.) ", chance.one_of(before))[:2])
        before = (before + [paragraph])[-12:]


if __name__ == "__main__":
    main()
