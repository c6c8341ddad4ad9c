#!/usr/bin/env python3
"""Plots how far sparse attention predicts from dense attention against the bytes that it reads, as SVG.

    scripts/plot_accuracy.py docs/accuracy.svg 'projection, r = 16'=projection.json window=base.json ...

Each argument names a series and a file of `winnow eval perplexity --json`; of a file with several policies
the series has those that are not dense and not true-scores. Each file must hold the dense policy, which the
others are compared with. Needs matplotlib.
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
# The same input gives the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "winnow", "font.size": 8, "axes.grid": True,
                            "grid.alpha": 0.3, "figure.constrained_layout.use": True})
from matplotlib import pyplot  # noqa: E402  (the backend comes first)


def main():
    output, *series = sys.argv[1:]
    reports = [(name, json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
               for name, path in (item.rsplit("=", 1) for item in series)]
    contexts = sorted({report["context"] for _, report in reports})
    figure, axes = pyplot.subplots(1, len(contexts), figsize=(4.6 * len(contexts), 3.6), squeeze=False)
    for axis, context in zip(axes.flat, contexts):
        of_context = [(name, report) for name, report in reports if report["context"] == context]
        for name, report in of_context:
            points = sorted((result["kv_bytes_read"] / result["kv_bytes_dense"], result["divergence"])
                            for result in report["results"] if result["policy"] not in ("dense", "true-scores"))
            axis.plot([100 * x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
        axis.set_title(f"context {context}", loc="left")
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_xticks([3, 5, 10, 20, 30, 50], labels=["3", "5", "10", "20", "30", "50"])
        axis.set_yscale("log")
        axis.set_xlabel("KV, label and summary bytes read, % of dense")
        axis.set_ylabel("KL(dense || policy), nats a token")
        axis.legend(fontsize=7, frameon=False)
    figure.savefig(output, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
