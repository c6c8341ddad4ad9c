#!/usr/bin/env python3
"""Runs a scenario with ghz against a server that is up, and writes a report.

    loadtest/run.py steady --output build/load/steady
    loadtest/run.py steady --output build/load/faster -- --rps 4 --duration 60s

Scenarios are scenarios/NAME.json, a config file of ghz, beside NAME.data.json, the shape of its
requests (workload.py); what stands after -- goes to ghz and wins. A Prometheus of its own scrapes the
server meanwhile. `eval "$(scripts/operations_tools.sh loadtest)"` brings ghz and the Python packages.
Exits with 1 when a request ended in an error that the scenario does not allow.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from datetime import datetime

import panels
import report
import runs
import workload
from prometheus import Prometheus

SCENARIOS = pathlib.Path(__file__).parent / "scenarios"
CALL = "winnow.v1.GenerationService.Generate"
# How ghz spells status codes, to how gRPC's documentation does.
SPELLING = {"ResourceExhausted": "RESOURCE_EXHAUSTED", "DeadlineExceeded": "DEADLINE_EXCEEDED",
            "InvalidArgument": "INVALID_ARGUMENT", "NotFound": "NOT_FOUND", "Canceled": "CANCELLED",
            "Unavailable": "UNAVAILABLE", "Internal": "INTERNAL", "Unknown": "UNKNOWN"}


def scenario_names():
    return sorted(path.stem for path in SCENARIOS.glob("*.json") if not path.stem.endswith(".data"))


def ghz(scenario, address, data, extra):
    """Runs ghz; what it reports as JSON. It finds the API through the server's reflection."""
    command = ["ghz", "--config", str(SCENARIOS / f"{scenario}.json"), "--insecure", "--call", CALL,
               "--data-file", str(data), "--format", "json", *extra, address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"run: {' '.join(command)} failed: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


def requests_of(ghz_report):
    """ghz's records as requests.jsonl wants them."""
    for detail in ghz_report["details"]:
        yield {"start": datetime.fromisoformat(detail["timestamp"]).timestamp(),
               "seconds": detail["latency"] / 1e9,
               "status": SPELLING.get(detail["status"], detail["status"])}


def main():
    extra = []
    if "--" in sys.argv:
        split = sys.argv.index("--")
        extra = sys.argv[split + 1:]
        del sys.argv[split:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=scenario_names())
    parser.add_argument("--address", default="127.0.0.1:50051", help="gRPC (default: %(default)s)")
    parser.add_argument("--metrics-address", default="127.0.0.1:9464", help="metrics (default: %(default)s)")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for the run, which may exist")
    parser.add_argument("--text", type=pathlib.Path, help="what prompts are cut from (default: the project's docs)")
    arguments = parser.parse_args()

    shape = json.loads((SCENARIOS / f"{arguments.scenario}.data.json").read_text())
    arguments.output.mkdir(parents=True, exist_ok=True)
    data = arguments.output / "data.json"
    data.write_text(json.dumps(workload.scenario_requests(
        arguments.address, shape, arguments.text.read_text() if arguments.text else None)))
    with Prometheus(arguments.metrics_address) as prometheus:
        started = time.time()
        result = ghz(arguments.scenario, arguments.address, data, extra)
        time.sleep(2)  # for the last samples
        ended = time.time()
        captured = panels.capture(prometheus, started, ended)
    options = {name: value for name, value in result["options"].items() if not isinstance(value, (dict, list))}
    runs.write(arguments.output, {
        "name": arguments.scenario, "address": arguments.address, "started": started, "ended": ended,
        "parameters": {"client": "ghz", **shape, **options}}, requests_of(result), captured)
    run = runs.Run(arguments.output)
    report.write(run)
    print(report.text(run))

    allowed = {"OK", "RESOURCE_EXHAUSTED"} if shape["may_overload"] else {"OK"}
    unexpected = {status: count for status, count in run.statuses().items() if status not in allowed}
    if unexpected:
        errors = [f"{count} x {message}" for message, count in result.get("errorDistribution", {}).items()]
        sys.exit(f"run: {arguments.scenario} is to have no errors, and has {unexpected}: {'; '.join(errors)}")


if __name__ == "__main__":
    main()
