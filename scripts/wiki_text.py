#!/usr/bin/env python3
"""Turns a MediaWiki XML dump into plain prose: the first paragraphs of each article, one paragraph a line.

    wiki_text.py DUMP.xml.bz2 PARAGRAPHS > TEXT

Lists, tables, templates, references and markup are left out, and articles that are mostly made of them.
"""

import bz2
import html
import re
import sys

# A paragraph of prose, not a caption or a stub.
MIN_PARAGRAPH = 200


def drop_nested(text, opening, closing):
    """The text without what stands between balanced opening and closing marks."""
    kept, depth = [], 0
    for piece in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if piece == opening:
            depth += 1
        elif piece == closing:
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(piece)
    return "".join(kept)


def plain(text):
    text = html.unescape(html.unescape(text))
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<ref[^>]*/>|<ref.*?</ref>|<(math|gallery|pre|code|timeline)\b.*?</\1>", "", text,
                  flags=re.S)
    text = drop_nested(text, "{{", "}}")
    text = drop_nested(text, "{|", "|}")
    text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):(?:[^\[\]]|\[\[[^\]]*\]\])*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S*\s*([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>|'''?|__[A-Z]+__", "", text)
    return text


def paragraphs(article):
    for line in plain(article).splitlines():
        line = re.sub(r"\(\s*[;,]?\s*\)", "", line)  # what a template has left of its brackets
        line = re.sub(r"\s+([,.;:)])", r"\1", re.sub(r"\s+", " ", line)).strip()
        if len(line) >= MIN_PARAGRAPH and line[0].isalnum() and line[-1] in ".\"":
            yield line


def main():
    dump, limit = sys.argv[1], int(sys.argv[2])
    xml = bz2.open(dump, "rt", encoding="utf-8").read()
    for page in re.findall(r"<page>.*?</page>", xml, flags=re.S):
        if "<ns>0</ns>" not in page or "<redirect" in page:
            continue
        title = html.unescape(re.search(r"<title>(.*?)</title>", page).group(1))
        text = re.search(r"<text[^>]*>(.*?)</text>", page, flags=re.S)
        found = list(paragraphs(text.group(1)))[:limit] if text else []
        if len(found) >= 2:
            print(title, *found, sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
