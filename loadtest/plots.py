"""Line plots of a run over its seconds, as SVG."""

import io

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({
    "svg.fonttype": "none", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.2, "figure.constrained_layout.use": True})
from matplotlib import pyplot  # noqa: E402  (the backend comes first)

# Series beyond these would be a blur.
MAX_SERIES = 16


def svg(figure):
    """The figure as an <svg> element."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg"):]


def grid(plots, columns):
    """One figure of several plots: [(title, unit, [(name, [(x, y)])])]; dashed where a name has '(server)'."""
    rows = -(-len(plots) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(plots):]:
        axis.set_visible(False)
    for axis, (title, unit, series) in zip(axes.flat, plots):
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlabel("seconds")
        axis.set_ylabel(unit)
        for name, points in series[:MAX_SERIES]:
            style = "--" if "(server)" in name else "-"
            axis.plot([x for x, _ in points], [y for _, y in points], style, label=name or title)
        axis.set_ylim(bottom=0)
        if any(name for name, _ in series):
            axis.legend(fontsize=6, frameon=False)
    return svg(figure)
