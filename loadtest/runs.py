"""A run's folder: what was asked, what every request got, what the server's metrics showed.

    run.json        {name, address, started, ended (seconds since 1970), parameters: {...}}
    requests.jsonl  one line a request, in the order they ended:
                    {start, seconds, status} and, from clients that see the stream:
                    {prompt_tokens, generated_tokens, ttft, gaps: [seconds between tokens]}
    panels.json     what the dashboards' panels showed (panels.capture)
    report.html     all of it as pictures (report.py)
"""

import collections
import json
import pathlib


class Run:
    """A finished run, read from its folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.info = json.loads((self.folder / "run.json").read_text())
        with open(self.folder / "requests.jsonl") as lines:
            self.requests = [json.loads(line) for line in lines]
        self.panels = json.loads((self.folder / "panels.json").read_text())

    @property
    def name(self):
        return self.info["name"]

    @property
    def seconds(self):
        return self.info["ended"] - self.info["started"]

    def statuses(self):
        return collections.Counter(request["status"] for request in self.requests)

    def completed(self):
        return [request for request in self.requests if request["status"] == "OK"]

    def panel(self, dashboard, title):
        """The series of one panel."""
        for panel in self.panels:
            if panel["dashboard"] == f"Winnow / {dashboard}" and panel["panel"] == title and panel["type"] != "stat":
                return panel["series"]
        raise KeyError(f"{dashboard}: {title}")


def write(folder, info, requests, panels):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(info, indent=2) + "\n")
    with open(folder / "requests.jsonl", "w") as lines:
        for request in requests:
            lines.write(json.dumps(request) + "\n")
    (folder / "panels.json").write_text(json.dumps(panels))


def percentile(values, share):
    """The value that `share` of the sorted values do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def summarize(run):
    """The figures by which runs are compared: {name: (value or None, unit, True if more is better)}."""
    done = run.completed()
    ttft = [request["ttft"] for request in done if "ttft" in request]
    gaps = [gap for request in done for gap in request.get("gaps", [])]
    seconds = [request["seconds"] for request in done]
    tokens = sum(request.get("generated_tokens", 0) for request in done)
    return {
        "requests": (len(run.requests), "", None),
        "completed": (len(done) / max(1, len(run.requests)), "share", True),
        "completed per second": (len(done) / run.seconds, "1/s", True),
        "generated tokens per second": (tokens / run.seconds if tokens else None, "1/s", True),
        **{f"request p{share * 100:g}": (percentile(seconds, share), "s", False) for share in (0.5, 0.95, 0.99)},
        **{f"TTFT p{share * 100:g}": (percentile(ttft, share), "s", False) for share in (0.5, 0.95, 0.99)},
        **{f"ITL p{share * 100:g}": (percentile(gaps, share), "s", False) for share in (0.5, 0.95, 0.99)},
    }


def format_value(value, unit):
    if value is None:
        return "-"
    if unit == "share":
        return f"{value:.2%}"
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 10 else f"{value:.1f} s"
    return f"{value:g}" if unit == "" else f"{value:.2f} {unit}"
