"""A running server under load: a real Prometheus scrapes it and has an answer to every query of every
dashboard and rule; ghz and the trace replay get what they ask for; their reports render."""

import math
import pathlib
import re
import subprocess
import tempfile
import time
import unittest

import grpc

from fixtures import ROOT, Server, run

import api
import panels
import workload
from prometheus import Prometheus

LOADTEST = ROOT / "loadtest"
STEP_SECONDS = 1  # between evaluations of a panel


def generate(server, prompt, max_tokens):
    """One request: its status code."""
    with grpc.insecure_channel(server.address) as channel:
        stub = api.generation_services.GenerationServiceStub(channel)
        request = api.generation.GenerateRequest(
            tokens=api.generation.TokenIds(ids=prompt),
            stop=api.generation.StopConditions(max_tokens=max_tokens, ignore_eos=True))
        try:
            list(stub.Generate(request, timeout=120))
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()


def addresses(server):
    return "--address", server.address, "--metrics-address", server.metrics_address


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.server = cls.enterClassContext(Server())
        cls.prometheus = cls.enterClassContext(Prometheus(cls.server.metrics_address))
        cls.started = time.time()
        prompts = workload.Prompts(cls.server.address)
        # Short requests; a context that is long enough to be sparse, often enough for recall to be
        # sampled; and a client's mistake.
        cls.smoke = run(LOADTEST / "run.py", "smoke", "--output", cls.folder / "smoke", *addresses(cls.server))
        cls.codes = [generate(cls.server, prompts.cut(600), 40), generate(cls.server, [], 1)]
        # A failed call is counted after its client has the answer, and a rate takes two scrapes.
        scraped = time.time()
        while not cls.prometheus.query(f'winnow_rpcs_total{{code="{cls.codes[1].name}"}}'):
            scraped = cls.prometheus.await_scrape(scraped)
        # Evaluated at whole steps: the last one is not before the second scrape.
        cls.ended = cls.prometheus.await_scrape(cls.prometheus.await_scrape(scraped)) + STEP_SECONDS

    def test_ghz_smoke_has_no_errors(self):
        self.assertEqual(re.findall(r"^([A-Z_]{2,}) +(\d+)$", self.smoke, re.MULTILINE), [("OK", "24")])

    def test_ghz_report_has_a_picture_of_every_dashboard(self):
        page = (self.folder / "smoke/report.html").read_text()
        for title, members in panels.dashboards():
            self.assertIn(f"<h2>{title}</h2><svg", page)
            for panel in members:
                self.assertIn(panel["title"], page)

    def test_promtool_accepts_the_scrape(self):
        done = subprocess.run(["promtool", "check", "metrics"], input=self.server.scrape(), capture_output=True,
                              text=True, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_every_panel_has_a_unit_a_description_and_data(self):
        self.assertEqual(self.codes, [grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT])
        queries = 0
        for title, members in panels.dashboards():
            for panel in members:
                self.assertTrue(panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"])
                for target in panel["targets"]:
                    queries += 1
                    expression = panels.expand(target["expr"], rate_seconds=15)
                    series = self.prometheus.query_range(expression, self.started, self.ended, STEP_SECONDS)
                    with self.subTest(f"{title}: {panel['title']}: {expression}"):
                        self.assertTrue(any(math.isfinite(value) for _, points in series for _, value in points))
                        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                            self.assertIn(label, series[0][0])
        self.assertGreater(queries, 50)

    def test_every_rule_evaluates_and_every_record_has_data(self):
        rules = self.prometheus.rules()
        self.assertGreater(len(rules), 15)
        for rule in rules:
            with self.subTest(rule["name"]):
                self.assertEqual((rule["health"], rule.get("lastError")), ("ok", None))
                if rule["type"] == "recording":
                    self.assertTrue(self.prometheus.query(rule["name"]))


class Replay(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        # One sequence at a time and a queue of six: twelve requests at once do not fit. They
        # generate for longer than it takes Prometheus to look again.
        cls.server = cls.enterClassContext(Server("--max-running", "1", "--max-waiting", "6"))
        cls.trace = cls.folder / "burst.csv"
        cls.trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
            f"2023-11-16 18:15:46.{i:07},40,150\n" for i in range(12)))

    def replay(self, name, *flags, ok=True):
        return run(LOADTEST / "replay.py", self.trace, "--output", self.folder / name, "--length-scale", "1",
                   *addresses(self.server), *flags, ok=ok)

    def test_overload_ends_in_documented_errors_within_the_bound_of_the_queue(self):
        output = self.replay("burst", "--max-waiting", "6")
        statuses = dict(re.findall(r"^([A-Z_]{2,}) +(\d+)$", output, re.MULTILINE))
        self.assertEqual(sum(map(int, statuses.values())), 12)
        self.assertLessEqual(statuses.keys(), {"OK", "RESOURCE_EXHAUSTED"})
        self.assertGreaterEqual(int(statuses["RESOURCE_EXHAUSTED"]), 12 - 6 - 2)
        self.assertRegex(output, r"TTFT p95 +\d")
        compared = run(LOADTEST / "compare.py", self.folder / "burst", self.folder / "burst", "--output",
                       self.folder / "compared.html")
        self.assertRegex(compared, r"TTFT p95 +\S+ m?s +\S+ m?s +\+0\.0%\n")
        self.assertIn("<svg", (self.folder / "compared.html").read_text())

    def test_a_queue_beyond_its_bound_fails_the_replay(self):
        output = self.replay("bound", "--max-waiting", "0", ok=False)
        self.assertIn("requests were waiting, and the bound is 0", output)


if __name__ == "__main__":
    unittest.main()
