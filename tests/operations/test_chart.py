"""The Helm chart: lint, rendering over a matrix of values, and validation of every object by the schemas
of several Kubernetes versions and by the custom resources' definitions. Values that make no sense are refused."""

import os
import pathlib
import re
import tempfile
import unittest

import yaml

from fixtures import CHART, ROOT, WINNOW, render, run

MATRIX = sorted((ROOT / "tests/operations/values").glob("*.yaml"))
BAD = sorted((ROOT / "tests/operations/values/bad").glob("*.yaml"))
CRDS = os.environ.get("WINNOW_CRDS", "")
# kubectl-validate has the schemas up to 1.30 built in, kubernetes-validate those of newer versions.
KUBECTL_VALIDATE = ("1.28", "1.29", "1.30")
KUBERNETES_VALIDATE = ("1.33", "1.35", "1.37")
CUSTOM = ("monitoring.coreos.com/", "keda.sh/")
# Image volumes came with 1.31.
SINCE_1_31 = {"image-volume.yaml"}


def objects(values):
    return [thing for thing in yaml.safe_load_all(render(values)) if thing]


def find(things, kind):
    (thing,) = [thing for thing in things if thing["kind"] == kind]
    return thing


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        (cls.folder / "native").mkdir()
        for values in MATRIX:
            (cls.folder / values.name).write_text(render(values))
            native = [thing for thing in objects(values) if not thing["apiVersion"].startswith(CUSTOM)]
            (cls.folder / "native" / values.name).write_text(yaml.safe_dump_all(native))

    def test_lint_has_nothing_to_say(self):
        for values in MATRIX:
            with self.subTest(values.name):
                run("helm", "lint", "--strict", CHART, "--kube-version", "1.30", "-f", values)

    def test_every_object_is_valid_for_kubectl_validate_and_custom_ones_by_their_definitions(self):
        rendered = [self.folder / values.name for values in MATRIX if values.name not in SINCE_1_31]
        for version in KUBECTL_VALIDATE:
            with self.subTest(version):
                output = run("kubectl-validate", "--version", version, "--local-crds", CRDS, *rendered)
                self.assertEqual(output.count("OK"), len(rendered), output)

    def test_every_object_is_valid_for_newer_kubernetes_versions(self):
        for version in KUBERNETES_VALIDATE:
            with self.subTest(version):
                run("python3", "-m", "kubernetes_validate", "--strict", "-k", version,
                    *(self.folder / "native" / values.name for values in MATRIX))

    def test_matrix_renders_every_template(self):
        rendered = "".join((self.folder / values.name).read_text() for values in MATRIX)
        sources = set(re.findall(r"^# Source: winnow/(\S+)$", rendered, re.MULTILINE))
        templates = {str(path.relative_to(CHART)) for path in CHART.glob("templates/**/*.yaml")}
        self.assertEqual(sources, templates)

    def test_bad_values_are_refused_by_the_schema(self):
        self.assertGreater(len(BAD), 10)
        for values in BAD:
            with self.subTest(values.name):
                expected = re.match(r"# expects: (.*)", values.read_text())[1]
                output = run("helm", "template", "release", CHART, "--kube-version", "1.30", "-f", values, ok=False)
                self.assertIn("values don't meet the specifications of the schema", output)
                self.assertIn(expected, output.partition("schema(s)")[2])

    def test_pods_outlive_their_drain(self):
        for values in MATRIX:
            things = objects(values)
            (workload,) = [thing for thing in things if thing["kind"] in ("Deployment", "StatefulSet")]
            pod = workload["spec"]["template"]["spec"]
            (config,) = [thing["data"]["winnow.conf"] for thing in things if "winnow.conf" in thing.get("data", {})]
            lame_duck, drain = (int(re.search(rf"^{name}-seconds: (\d+)$", config, re.MULTILINE)[1])
                                for name in ("lame-duck", "drain"))
            with self.subTest(values.name):
                self.assertGreater(pod["terminationGracePeriodSeconds"], lame_duck + drain)

    def test_pods_run_without_privileges(self):
        for values in MATRIX:
            for thing in objects(values):
                pod = thing["spec"] if thing["kind"] == "Pod" else thing.get("spec", {}).get("template", {}).get("spec")
                if not pod:
                    continue
                with self.subTest(f"{values.name}: {thing['kind']}"):
                    self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                    self.assertFalse(pod["automountServiceAccountToken"])
                    for container in pod["containers"] + pod.get("initContainers", []):
                        context = container["securityContext"]
                        self.assertTrue(context["readOnlyRootFilesystem"])
                        self.assertFalse(context["allowPrivilegeEscalation"])
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_services_and_monitors_find_the_pods(self):
        things = objects(ROOT / "tests/operations/values/hpa-service-monitor.yaml")
        pod = find(things, "Deployment")["spec"]["template"]
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        services = [thing for thing in things if thing["kind"] == "Service"]
        self.assertEqual(len(services), 2)
        for service in services:
            self.assertLessEqual(service["spec"]["selector"].items(), pod["metadata"]["labels"].items())
            self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, ports)
        monitor = find(things, "ServiceMonitor")["spec"]
        (scraped,) = [service for service in services
                      if monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}]
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), scraped["metadata"]["labels"].items())

    def test_servers_with_tls_are_probed_and_tested_over_tls(self):
        for name, client, tokens in (("tls.yaml", False, False), ("mutual-tls.yaml", True, True)):
            things = objects(ROOT / "tests/operations/values" / name)
            pod = find(things, "Deployment")["spec"]["template"]["spec"]
            server = pod["containers"][0]
            test = find(things, "Pod")["spec"]
            (config,) = [thing["data"]["winnow.conf"] for thing in things if "winnow.conf" in thing.get("data", {})]
            with self.subTest(name):
                self.assertEqual("tls-client-ca: /tls/ca.crt" in config, client)
                self.assertEqual("auth-tokens: /auth/tokens" in config, tokens)
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    command = server[probe]["exec"]["command"]
                    self.assertEqual(command[:2], ["/usr/local/bin/winnow", "health"])
                    self.assertIn("--tls-ca=/tls/ca.crt", command)
                    self.assertEqual("--tls-key=/tls/tls.key" in command, client)
                    self.assertNotIn("grpc", server[probe])
                # `winnow` knows the flags: it complains only of the file, which is not there.
                self.assertIn("/tls/", run(WINNOW, *command[1:], ok=False))
                self.assertIn("/tls/", run(WINNOW, *test["containers"][0]["args"], ok=False))
                for spec in (pod, test):
                    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"]
                               if "secret" in volume}
                    self.assertEqual(secrets["tls"], "winnow-tls")
                    mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
                    self.assertLessEqual(secrets.keys(), mounts)

    def test_network_policy_lets_the_helm_test_in(self):
        things = objects(ROOT / "tests/operations/values/url.yaml")
        clients = find(things, "NetworkPolicy")["spec"]["ingress"][0]["from"]
        self.assertEqual(len(clients), 2)
        test_pod = find(things, "Pod")["metadata"]["labels"]
        self.assertLessEqual(clients[1]["podSelector"]["matchLabels"].items(), test_pod.items())

    def test_download_takes_only_the_file_with_the_right_checksum(self):
        things = objects(ROOT / "tests/operations/values/url.yaml")
        (download,) = find(things, "Deployment")["spec"]["template"]["spec"]["initContainers"]
        script = download["args"][0].replace("/models/", "$ROOT/").replace("sha256sum -c -s", "sha256sum -c --status")
        good = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"  # of "1\n"
        for sha256, kept in ((good, True), ("0" * 64, False)):
            with self.subTest(kept=kept), tempfile.TemporaryDirectory() as root:
                source = pathlib.Path(root, "source")
                source.write_text("1\n")
                run("env", f"ROOT={root}/models", f"URL=file://{source}", f"SHA256={sha256}", "FILE=demo/model.gguf",
                    "sh", "-euc", script, ok=kept)
                self.assertEqual(pathlib.Path(root, "models/demo/model.gguf").exists(), kept)
                self.assertFalse(pathlib.Path(root, "models/demo/model.gguf.part").exists())

    def test_rules_and_dashboards_are_installed_as_they_are(self):
        things = objects(ROOT / "tests/operations/values/hpa-service-monitor.yaml")
        rules = yaml.safe_load((ROOT / "deploy/prometheus/winnow.rules.yaml").read_text())
        self.assertEqual(find(things, "PrometheusRule")["spec"], rules)
        (dashboards,) = [thing["data"] for thing in things if thing["metadata"]["name"].endswith("-dashboards")]
        for path in (ROOT / "deploy/grafana").glob("*.json"):
            self.assertEqual(dashboards[f"winnow-{path.name}"], path.read_text())


if __name__ == "__main__":
    unittest.main()
