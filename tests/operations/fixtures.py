"""What the tests here share: the repository, the rendered chart, a running server."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/winnow"
WINNOW = os.environ.get("WINNOW", str(ROOT / "build/release/winnow"))
MODEL = os.environ.get("WINNOW_DEMO_MODEL") or subprocess.check_output(
    [ROOT / "scripts/fetch_model.sh"], text=True).strip()
LABELS = ROOT / "models/smollm2-135m-instruct.labels.json"
START_LIMIT_SECONDS = 60

sys.path.insert(0, str(ROOT / "loadtest"))


def run(*command, ok=True):
    """Runs a command: its output, stderr included. `ok`: whether it is to succeed."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if (done.returncode == 0) != ok:
        raise AssertionError(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


def render(values, *more):
    """The chart's objects for a file of values, as YAML text; helm's remarks about links in files/ left out."""
    output = run("helm", "template", "release", CHART, "--namespace", "llm", "--kube-version", "1.30", "-f", values, *more)
    return re.sub(r"^walk\.go:.*\n", "", output, flags=re.MULTILINE)


class Server:
    """`winnow serve` with the demo model on free ports, while the `with` block runs."""

    def __init__(self, *flags):
        self._command = [WINNOW, "serve", "--model", MODEL, "--label-file", str(LABELS), "--address", "127.0.0.1:0",
                         "--metrics-address", "127.0.0.1:0", *flags]
        self._log = tempfile.NamedTemporaryFile("r", prefix="winnow-serve-", suffix=".log")
        self._process = None
        self.address = None
        self.metrics_address = None

    def __enter__(self):
        with open(self._log.name, "w") as log:
            self._process = subprocess.Popen(self._command, stderr=log)
        end = time.monotonic() + START_LIMIT_SECONDS
        while not (listening := self._listening()):
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise RuntimeError(f"the server did not start: {pathlib.Path(self._log.name).read_text()}")
            time.sleep(0.05)
        self.address, self.metrics_address = listening
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as response:
            return response.read().decode()

    def _listening(self):
        log = pathlib.Path(self._log.name).read_text()
        found = re.search(r" event=listening address=(\S+) metrics_address=(\S+)", log)
        return found and found.groups()
