#!/usr/bin/env python3
"""Prints the headings and paragraphs of a DocBook book in HTML, in reading order, one a line.

handbook_text.py FOLDER: the folder holds index.html and what its `next` links lead to. Listings and
screens are left out: the text is to be prose.
"""
import html.parser
import pathlib
import sys

BLOCKS = {"div", "p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "dt", "dd", "td", "th"}
VOID = {"br", "hr", "img", "link", "meta", "input", "col"}


def is_skipped(tag, classes):
    return tag in ("pre", "script", "style", "title") or bool(
        classes & {"docnav", "toc", "programlisting", "screen"})


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.paragraphs, self.next, self.words, self.open = [], None, [], []

    def flush(self):
        text = " ".join("".join(self.words).split())
        if text:
            self.paragraphs.append(text)
        self.words = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "link" and attributes.get("rel") == "next":
            self.next = attributes["href"]
        if tag in VOID:
            return
        if tag in BLOCKS:
            self.flush()
        skipped = is_skipped(tag, set((attributes.get("class") or "").split()))
        self.open.append((tag, skipped or attributes.get("id") in ("banner", "title")))

    def handle_startendtag(self, tag, attributes):
        if tag == "link":
            self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag in BLOCKS:
            self.flush()
        if self.open and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data):
        if not any(skipped for _, skipped in self.open):
            self.words.append(data)


def main():
    folder = pathlib.Path(sys.argv[1])
    name, seen = "index.html", set()
    while name and name not in seen:
        seen.add(name)
        page = Page()
        page.feed((folder / name).read_text(encoding="utf-8"))
        page.flush()
        print("\n".join(page.paragraphs))
        name = page.next


if __name__ == "__main__":
    main()
