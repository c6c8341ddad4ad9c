"""The panels of the Grafana dashboards as queries, and what Prometheus answers to them."""

import json
import pathlib
import re

DASHBOARDS = pathlib.Path(__file__).parent.parent / "deploy/grafana"


def dashboards():
    """[(title, [panel])] of all dashboards, with panels as Grafana has them; rows left out."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        yield board["title"], [panel for panel in board["panels"] if panel["type"] != "row"]


def expand(expression, rate_seconds):
    """A panel's query without Grafana's variables: all jobs, all instances."""
    return (expression.replace("$__rate_interval", f"{rate_seconds}s")
            .replace("$job", ".*").replace("$instance", ".*"))


def series_name(legend, labels):
    """A series' name as Grafana would write it."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def capture(prometheus, start, end, rate_seconds=15):
    """What all panels show of the time from `start` to `end`: a list of
    {dashboard, panel, type, unit, series: [{name, points: [[time, value]]}]}."""
    step = max(1, round((end - start) / 240))
    captured = []
    for title, panels in dashboards():
        for panel in panels:
            series = []
            for target in panel["targets"]:
                expression = expand(target["expr"], rate_seconds)
                for labels, points in prometheus.query_range(expression, start, end, step):
                    series.append({"name": series_name(target["legendFormat"], labels), "points": points})
            captured.append({"dashboard": title, "panel": panel["title"], "type": panel["type"],
                             "unit": panel["fieldConfig"]["defaults"]["unit"], "series": series})
    return captured
