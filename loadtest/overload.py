#!/usr/bin/env python3
"""Goodput beyond capacity: starts a server, measures what it can serve, then offers many times as much.

    loadtest/overload.py --model "$(scripts/fetch_model.sh)" --seconds 300

Goodput is the rate of generated tokens of requests that end with OK within their deadlines. Phases, each
after a lead-in as long as a deadline, which is not counted:

    closed loop   clients that send one request after another, as many as --clients: the capacity
    at capacity   requests at random times at that rate
    overload      --factor times as many, for --seconds
    at capacity   again: other work on the machine between the phases shows in the difference

Peak is the best goodput of all phases but the overload. Exits with 1 when the overload's goodput is below 90 % of it,
when the 99th percentile of the time to a refusal reaches 50 ms, or when the server's memory grew by more than 5 %
under overload. Flags after -- go to the server.
"""

import argparse
import asyncio
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time

import grpc

import api
import runs
import workload

ROOT = pathlib.Path(__file__).parent.parent
START_LIMIT_SECONDS = 60
CONNECTIONS = 4
BACKOFF_SECONDS = 0.2  # of a closed loop's client that was refused


class Server:
    """`winnow serve` on free ports, while the `with` block runs."""

    def __init__(self, command):
        self._log = tempfile.NamedTemporaryFile("r", prefix="winnow-overload-", suffix=".log")
        with open(self._log.name, "w") as log:
            self._process = subprocess.Popen([*command, "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"],
                                             stderr=log)
        end = time.monotonic() + START_LIMIT_SECONDS
        while "event=listening " not in (text := pathlib.Path(self._log.name).read_text()):
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                sys.exit(f"overload: the server did not start: {text}")
            time.sleep(0.05)
        self.address = text.split("event=listening address=")[1].split()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    def resident_megabytes(self):
        pages = int(pathlib.Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """Sends requests and keeps (end, seconds, status, tokens) of each."""

    def __init__(self, address, arguments):
        self._arguments = arguments
        self._random = random.Random(1)
        prompts = workload.Prompts(address)
        # Made beforehand: making a request is dearer than sending it.
        self._requests = [self._request(prompts) for _ in range(2000)]
        self._next = 0
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(CONNECTIONS)]
        self._calls = [api.generation_services.GenerationServiceStub(channel).Complete for channel in self._channels]
        self.records = []

    def _request(self, prompts):
        return api.generation.GenerateRequest(
            tokens=api.generation.TokenIds(ids=prompts.cut(self._random.randint(*self._arguments.prompt_tokens))),
            sampling=api.generation.SamplingParams(temperature=0),
            stop=api.generation.StopConditions(max_tokens=self._random.randint(*self._arguments.generated_tokens),
                                               ignore_eos=True))

    async def send(self):
        self._next += 1
        request = self._requests[self._next % len(self._requests)]
        begin, status, tokens = time.perf_counter(), "OK", 0
        try:
            response = await self._calls[self._next % CONNECTIONS](request, timeout=self._arguments.deadline)
            tokens = response.summary.usage.generated_tokens
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        end = time.perf_counter()
        self.records.append((end, end - begin, status, tokens))
        return status

    async def closed_loop(self, clients, end):
        async def client():
            while time.perf_counter() < end:
                if await self.send() != "OK":
                    await asyncio.sleep(BACKOFF_SECONDS)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open_loop(self, rate, end):
        pending = set()
        at = time.perf_counter()
        while (at := at + self._random.expovariate(rate)) < end:
            await asyncio.sleep(at - time.perf_counter())
            task = asyncio.ensure_future(self.send())
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)

    async def close(self):
        for channel in self._channels:
            await channel.close()


def own_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def phase(name, server, load, arguments, seconds, rate=None):
    """Runs one phase and prints a line; {figure: value}."""
    begin = time.perf_counter() + arguments.deadline
    end = begin + seconds
    memory = []

    async def sample_memory():
        while (now := time.perf_counter()) < end:
            if now >= begin:
                memory.append(server.resident_megabytes())
            await asyncio.sleep(1)

    load.records.clear()
    cpu, own_cpu, started = server.cpu_seconds(), own_cpu_seconds(), time.perf_counter()
    await asyncio.gather(sample_memory(),
                         load.open_loop(rate, end) if rate else load.closed_loop(arguments.clients, end))
    wall = time.perf_counter() - started
    counted = [record for record in load.records if begin <= record[0] < end]
    refusals = [took for _, took, status, _ in counted if status == "RESOURCE_EXHAUSTED"]
    figures = {
        "offered": rate or len(counted) / seconds,
        "goodput": sum(tokens for *_, status, tokens in counted if status == "OK") / seconds,
        "completed": sum(status == "OK" for *_, status, _ in counted) / seconds,
        "late": sum(status == "DEADLINE_EXCEEDED" for *_, status, _ in counted),
        "other": sum(status not in ("OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED") for *_, status, _ in counted),
        "refusals": len(refusals),
        "refusal p50": runs.percentile(refusals, 0.5) or 0,
        "refusal p99": runs.percentile(refusals, 0.99) or 0,
        "memory": memory,
    }
    print(f"{name:12} {figures['offered']:7.2f}/s offered, {figures['completed']:6.2f}/s OK, goodput "
          f"{figures['goodput']:7.2f} tokens/s; late {figures['late']}, other errors {figures['other']}, refused "
          f"{len(refusals)} in p50 {figures['refusal p50'] * 1e3:.1f} ms, p99 {figures['refusal p99'] * 1e3:.1f} ms; memory "
          f"{memory[0]:.0f} to {memory[-1]:.0f} MB, most {max(memory):.0f}; cores used: server "
          f"{(server.cpu_seconds() - cpu) / wall:.2f}, load {(own_cpu_seconds() - own_cpu) / wall:.3f}", flush=True)
    return figures


async def measure(server, arguments):
    load = Load(server.address, arguments)
    closed = await phase("closed loop", server, load, arguments, arguments.peak_seconds)
    rate = closed["completed"]
    before = await phase("at capacity", server, load, arguments, arguments.peak_seconds, rate)
    overload = await phase("overload", server, load, arguments, arguments.seconds, arguments.factor * rate)
    after = await phase("at capacity", server, load, arguments, arguments.peak_seconds, rate)
    await load.close()
    peak = max(figures["goodput"] for figures in (closed, before, after))
    growth = overload["memory"][-1] / overload["memory"][0] - 1
    print(f"goodput at {arguments.factor:g} times the capacity is {overload['goodput'] / peak:.1%} of the peak of {peak:.2f} "
          f"tokens/s; memory grew by {growth:.1%}; load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    return overload["goodput"] >= 0.9 * peak and overload["refusal p99"] < 0.05 and growth <= 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "build/release/winnow", help="(default: %(default)s)")
    parser.add_argument("--model", required=True, help="the GGUF file to serve")
    parser.add_argument("--seconds", type=float, default=300, help="of overload (default: %(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=60, help="of the other phases (default: %(default)s)")
    parser.add_argument("--factor", type=float, default=10, help="overload over capacity (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=20, help="of each request in seconds (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(20, 100), help="least and most (default: %(default)s)")
    parser.add_argument("--generated-tokens", type=int, nargs=2, default=(20, 60), help="least and most (default: %(default)s)")
    parser.add_argument("flags", nargs="*", help="for the server")
    arguments = parser.parse_args()
    with Server([arguments.binary, "serve", "--model", arguments.model, *arguments.flags]) as server:
        sys.exit(0 if asyncio.run(measure(server, arguments)) else 1)


if __name__ == "__main__":
    main()
