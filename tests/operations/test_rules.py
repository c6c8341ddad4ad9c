"""Prometheus' own checks of the rules, and the rules' unit tests."""

import re
import unittest

import yaml

from fixtures import ROOT, run

PROMETHEUS = ROOT / "deploy/prometheus"


class Rules(unittest.TestCase):
    def test_promtool_accepts_them(self):
        self.assertIn("SUCCESS", run("promtool", "check", "rules", "--lint-fatal", PROMETHEUS / "winnow.rules.yaml"))

    def test_unit_tests_pass(self):
        run("promtool", "test", "rules", PROMETHEUS / "winnow.rules.test.yaml")

    def test_every_alert_is_unit_tested_and_has_a_runbook(self):
        tests = (PROMETHEUS / "winnow.rules.test.yaml").read_text()
        headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
        groups = yaml.safe_load((PROMETHEUS / "winnow.rules.yaml").read_text())["groups"]
        alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
        self.assertGreater(len(alerts), 5)
        for rule in alerts:
            with self.subTest(rule["alert"]):
                self.assertRegex(tests, rf"alertname: {rule['alert']}\n +exp_alerts:")
                self.assertIn(rule["alert"], headings)
                self.assertEqual(rule["annotations"]["runbook"], f"docs/operations.md#{rule['alert'].lower()}")


if __name__ == "__main__":
    unittest.main()
