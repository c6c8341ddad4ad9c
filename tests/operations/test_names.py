"""The chart, the dashboards and the rules name only metrics and flags that the server has.

    test_names.py --write     brings values.schema.json's `config` up to date with `winnow serve --help`
"""

import json
import re
import sys
import tempfile
import unittest

import yaml

from fixtures import CHART, ROOT, WINNOW, Server, render, run

SCHEMA = CHART / "values.schema.json"
# Flags that the chart sets itself, from other values.
OWNED_BY_CHART = {"model", "model-name", "address", "metrics-address", "lame-duck-seconds",
                  "drain-seconds", "tls-cert", "tls-key", "tls-client-ca", "auth-tokens", "auth-over-plaintext", "config", "help"}
METRIC = re.compile(r"\b(?:winnow_\w+|winnow:[a-z][\w:]+|vllm:\w+)")
# What Prometheus makes of a histogram.
SUFFIXES = ("_bucket", "_sum", "_count")


def server_flags():
    """{name: unit or ""} from `winnow serve --help`."""
    return dict(re.findall(r"^  --([a-z0-9-]+) ?(\S*)", run(WINNOW, "serve", "--help"), re.MULTILINE))


def property_of(name, unit):
    """A flag as a property of values.schema.json."""
    if not unit:
        return {"type": "boolean"}
    if name == "device":
        return {"enum": ["cpu", "cuda"]}  # a build without CUDA lists less
    if re.fullmatch(r"auto\|[A-Z]+", unit):
        return {"anyOf": [{"const": "auto"}, property_of(name, unit.removeprefix("auto|"))]}
    if "|" in unit:
        return {"enum": unit.split("|")}
    if unit == "LEVEL":
        return {"type": "integer"}
    if unit == "TOKENS":
        return {"type": "integer", "minimum": 0}
    if unit == "SHARE":
        return {"type": "number", "minimum": 0.01 if name == "memory-fraction" else 0, "maximum": 1}
    if unit in ("N", "SECONDS"):
        return {"type": "number", "minimum": 0}
    return {"type": "string", "minLength": 1}


def config_properties():
    return {name: property_of(name, unit) for name, unit in sorted(server_flags().items())
            if name not in OWNED_BY_CHART}


def write_schema():
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"]["properties"] = config_properties()
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


def files_that_name_metrics():
    for pattern in ("deploy/**/*.json", "deploy/**/*.yaml", "deploy/**/*.tpl", "docs/operations.md", "docs/metrics.md"):
        for path in ROOT.glob(pattern):
            if path.is_file():
                yield path


class Names(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Server("--inference-extension-metrics") as server:
            page = server.scrape()
        cls.metrics = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
        histograms = re.findall(r"^# TYPE (\S+) histogram", page, re.MULTILINE)
        rules = yaml.safe_load((ROOT / "deploy/prometheus/winnow.rules.yaml").read_text())
        adapter = yaml.safe_load((ROOT / "deploy/prometheus/adapter.values.yaml").read_text())
        cls.known = (cls.metrics
                     | {name + suffix for name in histograms for suffix in SUFFIXES}
                     | {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
                     | {rule["name"]["as"] for rule in adapter["rules"]["custom"]})

    def test_every_named_metric_exists(self):
        files = list(files_that_name_metrics())
        self.assertGreater(len(files), 20)
        for path in files:
            for name in set(METRIC.findall(path.read_text())):
                with self.subTest(f"{path.relative_to(ROOT)}: {name}"):
                    self.assertIn(name, self.known)

    def test_every_metric_is_on_a_dashboard_or_in_a_rule(self):
        text = "".join(path.read_text() for path in files_that_name_metrics() if "deploy" in path.parts)
        for name in self.metrics:
            if name.startswith("winnow_"):
                with self.subTest(name):
                    self.assertIn(name, text)

    def test_chart_offers_the_flags_that_the_server_has(self):
        properties = json.loads(SCHEMA.read_text())["properties"]["config"]["properties"]
        self.assertEqual(properties, config_properties(), "tests/operations/test_names.py --write brings them up to date")

    def test_matrix_sets_every_flag(self):
        values = yaml.safe_load((ROOT / "tests/operations/values/every-flag.yaml").read_text())
        self.assertEqual(values["config"].keys(), config_properties().keys())

    def test_chart_and_documentation_name_flags_that_the_server_has(self):
        flags = server_flags()
        config = re.search(r'define "winnow.config".*?\n{{- end -}}\n', (CHART / "templates/_helpers.tpl").read_text(),
                           re.DOTALL)[0]
        written = set(re.findall(r"^([a-z-]+):", config, re.MULTILINE))
        self.assertEqual(written - {"device"}, OWNED_BY_CHART - {"config", "help"})
        for name in written:
            self.assertIn(name, flags)
        for name in re.findall(r"`--([a-z-]+)", (ROOT / "docs/operations.md").read_text()):
            with self.subTest(name):
                self.assertIn(name, flags)

    def test_server_reads_the_config_file_that_the_chart_writes(self):
        # All flags are accepted, or the first that isn't would be what it complains of; there is
        # just no such model.
        config_map = yaml.safe_load(render(ROOT / "tests/operations/values/every-flag.yaml", "--show-only",
                                           "templates/configmap.yaml"))
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(config_map["data"]["winnow.conf"])
            file.flush()
            self.assertIn("/models/model.gguf", run(WINNOW, "serve", "--config", file.name, ok=False))


if __name__ == "__main__":
    if "--write" in sys.argv:
        write_schema()
    else:
        unittest.main()
