#!/usr/bin/env python3
"""Writes a run's report.html: what clients saw over time, the server's own metrics beside it, and
every panel of the dashboards. `run.py` and `replay.py` do this by themselves.

    loadtest/report.py build/load/steady
"""

import html
import pathlib
import sys

import plots
import runs

WINDOWS = 60          # points of a plot over time
DASHBOARD_COLUMNS = 3
# Grafana's units, as one would write them.
UNITS = {"short": "", "percentunit": "share", "reqps": "1/s", "cps": "1/s", "ops": "1/s", "Bps": "bytes/s"}
STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}h2{margin-top:2em}"""


def windows(run, events):
    """Groups [(time, value)] into equal windows of the run: (window's seconds, [(middle, [values])])."""
    width = max(1.0, run.seconds / WINDOWS)
    groups = [[] for _ in range(int(run.seconds / width) + 1)]
    for at, value in events:
        index = int((at - run.info["started"]) / width)
        if 0 <= index < len(groups):
            groups[index].append(value)
    return width, [((i + 0.5) * width, group) for i, group in enumerate(groups)]


def rate_over_time(run, events):
    width, groups = windows(run, events)
    return [(x, sum(values) / width) for x, values in groups]


def percentiles_over_time(run, events, prefix):
    _, groups = windows(run, events)
    return [(f"{prefix} p{share * 100:g}", [(x, runs.percentile(values, share)) for x, values in groups if values])
            for share in (0.5, 0.95, 0.99)]


def server_series(run, dashboard, title):
    """A panel's series on the run's clock, marked as the server's."""
    return [(f"{series['name']} (server)", [(t - run.info["started"], v) for t, v in series["points"]])
            for series in run.panel(dashboard, title)]


def ends(run, status=None):
    return [(request["start"] + request["seconds"], 1) for request in run.requests
            if status is None or request["status"] == status]


def client_plots(run):
    """What clients saw, with the server's word beside it."""
    done = run.completed()
    result = [
        ("Requests that ended", "1/s", [(status, rate_over_time(run, ends(run, status)))
                                        for status in sorted(run.statuses())]
         + server_series(run, "Service", "Continuations by end")),
        ("Request duration", "s", percentiles_over_time(
            run, [(request["start"] + request["seconds"], request["seconds"]) for request in done], "client")
         + server_series(run, "Service", "Request duration")),
    ]
    seen = [request for request in run.requests if "ttft" in request]
    tokens = [(request["start"] + request["ttft"] + offset, gap) for request in seen
              for offset, gap in accumulate(request["gaps"])]
    first = [(request["start"] + request["ttft"], request["ttft"]) for request in seen]
    throughput = [("client", rate_over_time(run, [(at, 1) for at, _ in tokens + first]))] if seen else []
    result += [
        ("Generated tokens", "1/s", throughput + [
            series for series in server_series(run, "Engine", "Computed tokens") if series[0].startswith("decode")]),
        ("Time to first token", "s", (percentiles_over_time(run, first, "client") if seen else [])
         + server_series(run, "Service", "Time to first token")),
        ("Inter-token latency", "s", (percentiles_over_time(run, tokens, "client") if seen else [])
         + server_series(run, "Service", "Inter-token latency")),
        ("Requests in the server", "", server_series(run, "Service", "Requests")),
    ]
    return result


def accumulate(gaps):
    """(seconds since the first token, gap) of every further token."""
    total = 0.0
    for gap in gaps:
        total += gap
        yield total, gap


def dashboards(run):
    """{title: plots} of every panel; stat panels are plotted as what they are: one line over time."""
    result = {}
    for panel in run.panels:
        series = [(series["name"], [(t - run.info["started"], v) for t, v in series["points"]])
                  for series in panel["series"]]
        unit = UNITS.get(panel["unit"], panel["unit"])
        result.setdefault(panel["dashboard"], []).append((panel["panel"], unit, series))
    return result


def table(rows):
    cells = "".join(f"<tr><td>{html.escape(str(name))}</td><td class=number>{html.escape(str(value))}</td></tr>"
                    for name, value in rows)
    return f"<table>{cells}</table>"


def page(title, body):
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
            f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>\n")


def figures(run):
    """(name, value) of what this run's client could measure."""
    return [(name, runs.format_value(value, unit)) for name, (value, unit, _) in runs.summarize(run).items()
            if value is not None]


def text(run):
    """The figures for a terminal."""
    rows = [*sorted(run.statuses().items()), *figures(run), ("report", run.folder / "report.html")]
    return "\n".join(f"{name:<28} {value}" for name, value in rows)


def write(run):
    body = [
        "<h2>Figures</h2>", table([*sorted(run.statuses().items()), *figures(run)]),
        "<h2>Over time</h2><p>Solid: the client. Dashed: the server's metrics.</p>",
        plots.grid(client_plots(run), 2),
        *(f"<h2>{html.escape(title)}</h2>{plots.grid(members, DASHBOARD_COLUMNS)}"
          for title, members in dashboards(run).items()),
        "<h2>Parameters</h2>", table([("seconds", f"{run.seconds:.1f}"), *run.info["parameters"].items()]),
    ]
    (run.folder / "report.html").write_text(page(f"Load: {run.name}", "".join(body)))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    write(runs.Run(pathlib.Path(sys.argv[1])))
