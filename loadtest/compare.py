#!/usr/bin/env python3
"""Compares two runs of the same load: a table on the terminal, plots in an HTML file.

    loadtest/compare.py build/load/before build/load/after --output build/load/before-after.html
"""

import argparse
import pathlib

import plots
import report
import runs


def rows(before, after):
    """(name, before, after, change, judgement) of what was measured; judgement is better, worse or nothing."""
    first, second = runs.summarize(before), runs.summarize(after)
    for name, (old, unit, more_is_better) in first.items():
        new = second[name][0]
        if old is None and new is None:
            continue
        change, judgement = "-", ""
        if old and new is not None:
            change = f"{new / old - 1:+.1%}"
            if more_is_better is not None and new != old:
                judgement = "better" if (new > old) == more_is_better else "worse"
        yield name, runs.format_value(old, unit), runs.format_value(new, unit), change, judgement


def overlay(before, after):
    """The plots of what clients and server saw, both runs in each; percentiles but the 95th left out."""
    def pick(run, label, series):
        return [(f"{name} {label}", points) for name, points in series if " p" not in f" {name}" or "p95" in name]
    second = {title: series for title, _, series in report.client_plots(after)}
    return [(title, unit, pick(before, "before", series) + pick(after, "after", second[title]))
            for title, unit, series in report.client_plots(before)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="HTML file")
    arguments = parser.parse_args()
    before, after = runs.Run(arguments.before), runs.Run(arguments.after)
    compared = list(rows(before, after))
    for row in [("", "before", "after", "change", ""), *compared]:
        print("{:<28} {:>12} {:>12} {:>9} {}".format(*row).rstrip())
    if arguments.output:
        head = "<tr><th></th><th>before</th><th>after</th><th>change</th><th></th></tr>"
        cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in compared)
        arguments.output.write_text(report.page(
            f"{before.folder.name} and {after.folder.name}",
            f"<table>{head}{cells}</table>{plots.grid(overlay(before, after), 2)}"))


if __name__ == "__main__":
    main()
