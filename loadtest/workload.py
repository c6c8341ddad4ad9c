"""Prompts of exact lengths, cut out of a text at random places."""

import pathlib
import random

import api

ROOT = pathlib.Path(__file__).parent.parent


def default_text():
    """The project's own documentation: English, and always there."""
    return "\n\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


class Prompts:
    """Cuts prompts. The same seed gives the same prompts."""

    def __init__(self, address, text=None, seed=0):
        self._ids = api.tokenize(address, text or default_text())
        self._random = random.Random(seed)

    def cut(self, tokens):
        """`tokens` token ids in a row, going on at the text's beginning past its end."""
        start = self._random.randrange(len(self._ids))
        repeats = (start + tokens) // len(self._ids) + 1
        return (self._ids * repeats)[start:start + tokens]

    def between(self, bounds):
        """A number within [low, high], skewed to the low end as lengths of real requests are."""
        low, high = bounds
        return round(low * (high / low) ** self._random.random())


def scenario_requests(address, shape, text=None, seed=0):
    """Requests as JSON for ghz. `shape` is what scenarios/NAME.data.json holds:

    requests             how many different ones; ghz goes round
    prompt_tokens        [least, most]
    generated_tokens     [least, most]
    shared_prefix_tokens tokens that all prompts begin with, in addition; 0 for none
    may_overload         true if it is meant to fill the server's queue
    """
    prompts = Prompts(address, text, seed)
    prefix = prompts.cut(shape["shared_prefix_tokens"])
    return [
        {
            "tokens": {"ids": prefix + prompts.cut(prompts.between(shape["prompt_tokens"]))},
            "sampling": {"temperature": 0},
            "stop": {"max_tokens": prompts.between(shape["generated_tokens"]), "ignore_eos": True},
        }
        for _ in range(shape["requests"])
    ]
