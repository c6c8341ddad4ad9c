"""A Prometheus of our own that scrapes one server while a load runs."""

import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus/winnow.rules.yaml"
SCRAPE_SECONDS = 1
START_LIMIT_SECONDS = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """Runs while the `with` block does; what it stored goes with it. Job names as in the rules."""

    def __init__(self, metrics_address):
        self._metrics_address = metrics_address
        self._folder = tempfile.TemporaryDirectory(prefix="winnow-prometheus-")
        self._url = None
        self._process = None

    def __enter__(self):
        folder = pathlib.Path(self._folder.name)
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "winnow", "static_configs": [{"targets": [self._metrics_address]}]}],
        }))
        address = f"127.0.0.1:{free_port()}"
        self._url = f"http://{address}"
        with open(folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address={address}", "--log.level=warn"], stdout=log, stderr=log)
        end = time.monotonic() + START_LIMIT_SECONDS
        while not self._up():
            if self._process.poll() is not None or time.monotonic() > end:
                text = (folder / "log").read_text()
                self.__exit__()
                raise RuntimeError(f"Prometheus does not scrape {self._metrics_address}: {text}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    def await_scrape(self, after):
        """Waits for a scrape that was later (seconds since 1970); returns when it was."""
        end = time.monotonic() + START_LIMIT_SECONDS
        while not (times := [when for _, when in self.query("timestamp(up)") if when > after]):
            if time.monotonic() > end:
                raise RuntimeError(f"Prometheus has not scraped {self._metrics_address} again")
            time.sleep(0.1)
        return times[0]

    def query(self, expression):
        """Series now, as [(labels, value)]."""
        return [(series["metric"], float(series["value"][1]))
                for series in self._get("query", query=expression)["result"]]

    def query_range(self, expression, start, end, step):
        """Series from `start` to `end` (seconds since 1970), as [(labels, [[time, value], ...])]."""
        return [(series["metric"], [[t, float(v)] for t, v in series["values"]])
                for series in self._get("query_range", query=expression, start=start, end=end, step=step)["result"]]

    def rules(self):
        """The rules as Prometheus evaluates them: [{name, health, lastError, ...}]."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, method, **parameters):
        url = f"{self._url}/api/v1/{method}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["data"]

    def _up(self):
        try:
            return bool(self.query('up{job="winnow"} == 1'))
        except OSError:
            return False
