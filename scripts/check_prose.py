#!/usr/bin/env python3
"""Checks that prose is wrapped at 100 columns, so that diffs of it can be read.

    check_prose.py          says FILE:LINE of each line that is too long; exit status 1 if there is one
    check_prose.py --fix    wraps the paragraphs and list items of Markdown files that have such lines

Prose is paragraphs and list items of Markdown, and comments that have a line of their own in
scripts, CMake, YAML, Dockerfiles and .proto files (which --fix leaves to hands). Exempt is what
cannot be broken: tables, code blocks (in comments, what is indented by two spaces or more),
headings, and a single word or link that is longer than a line. Inline code stays on one line.
"""

import pathlib
import re
import subprocess
import sys

COLUMNS = 100
COMMENTS = {  # how a comment begins that has a line of its own, by file name
    r".*\.(sh|py|cmake|ya?ml)|(.*/)?(CMakeLists\.txt|Makefile|Dockerfile.*)|\.ci/run": "#",
    r".*\.proto": "//",
}
FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"(\s*)([-*+]|\d+[.)])(\s+)(?=\S)")
# What stands alone, whatever is around it: headings, table rows, quotes, HTML, link definitions.
ALONE = re.compile(r"\s*(#{1,6}\s|\||>|<|\[[^\]]+\]:\s)")
# A word that would mean something else at the beginning of a line.
LEADING = re.compile(r"([-*+]|\d+[.)]|#{1,6}|[|><=].*|```.*|~~~.*|---+|===+)$")
# What is kept on one line: inline code, and the rest of the word around it.
WORD = re.compile(r"(?:``.+?``|`[^`]+`|\S)+")


def words(text):
    """The words of a text; one that may not begin a line is joined to the one before it."""
    found = []
    for word in WORD.findall(text):
        if found and LEADING.match(word):
            found[-1] += " " + word
        else:
            found.append(word)
    return found


def wrap(text, first, rest):
    """The lines of a text; the first begins with `first`, the others with `rest`."""
    lines, line = [], None
    for word in words(text):
        if line is None:
            line = first + word
        elif len(line) + 1 + len(word) <= COLUMNS:
            line += " " + word
        else:
            lines.append(line)
            line = rest + word
    return lines + [line]


class Block:
    """A paragraph or a list item: its lines from `begin` on, without their indentation."""

    def __init__(self, begin, first, rest):
        self.begin = begin
        self.first = first  # what its first line begins with: an indentation, a list's marker
        self.rest = rest  # the indentation of its other lines
        self.lines = []

    def wrapped(self):
        """Its lines as they should be. Hard line breaks stay where they are."""
        result, piece = [], []
        for line in self.lines:
            piece.append(line)
            if line.endswith(("  ", "\\")) or line is self.lines[-1]:
                ending = "  " if line.endswith("  ") else ""
                first = self.rest if result else self.first
                result += wrap(" ".join(piece), first, self.rest)
                result[-1] += ending
                piece = []
        return result

    def too_long(self):
        """The offsets of lines that are too long and can be broken."""
        prefixes = [self.first] + [self.rest] * (len(self.lines) - 1)
        return [
            i
            for i, (prefix, line) in enumerate(zip(prefixes, self.lines))
            if len(prefix + line.rstrip()) > COLUMNS and len(words(line)) > 1
        ]


def blocks(lines):
    """The paragraphs and list items of a Markdown file."""
    found, block, fence, code, content = [], None, None, False, 0
    for number, line in enumerate(lines):
        if fence:
            fence = None if line.strip() == fence else fence
            continue
        if match := FENCE.match(line):
            fence, block = match.group(1), None
            continue
        if not line.strip():
            block = None
            continue
        indent = line[: len(line) - len(line.lstrip())]
        item = ITEM.match(line)
        if not indent:
            content = 0  # where the text of the list's item begins, if there is one
        # Indented code begins after an empty line, and ends where the indentation does.
        code = len(indent) >= content + 4 and (code or block is None)
        if code:
            continue
        if ALONE.match(line):
            block = None
            continue
        if item or block is None:
            first = item.group(0) if item else indent
            content = len(first) if item else content
            block = Block(number, first, " " * len(first))
            found.append(block)
            block.lines.append(line[len(first):])
        else:
            block.lines.append(line.lstrip())
    return found


def check_markdown(path, fix):
    """The numbers of lines that are too long; none after they were wrapped."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for block in reversed(blocks(lines)):
        if offsets := block.too_long():
            found = [block.begin + i + 1 for i in offsets] + found
            lines[block.begin : block.begin + len(block.lines)] = block.wrapped()
    if fix and found:
        path.write_text("\n".join(lines), encoding="utf-8")
    return [] if fix else found


def check_comments(path, sign):
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.lstrip()
        if len(line) > COLUMNS and re.match(f"{sign}+ ?[^ ]+ ", text):
            found.append(number)
    return found


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    listed = [name for name in listed if name and not (root / name).is_symlink()]
    checked, failed = 0, False
    for name in listed:
        found = None
        if name.endswith(".md"):
            found = check_markdown(root / name, "--fix" in sys.argv)
        for pattern, sign in COMMENTS.items():
            if re.fullmatch(pattern, name):
                found = check_comments(root / name, sign)
        if found is None:
            continue
        checked += 1
        for number in found:
            print(f"check_prose: {name}:{number}: longer than {COLUMNS} columns", file=sys.stderr)
            failed = True
    if failed:
        sys.exit(1)
    print(f"prose: {checked} files, wrapped at {COLUMNS} columns")


if __name__ == "__main__":
    main()
