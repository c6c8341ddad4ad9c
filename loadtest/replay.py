#!/usr/bin/env python3
"""Replays a request trace against a server that is up, and writes a report.

    loadtest/replay.py azure-llm-2023-conv.csv --speedup 10 --output build/load/replay

The trace is CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, as the Azure LLM
inference traces of 2023 have them (CC-BY). Requests are sent when the trace says, `--speedup` times
as fast, whether or not earlier ones have been answered. Lengths are multiplied by `--length-scale`,
by default so that the trace's longest request just fits the server's context. Prompts are cut from a
text (workload.py); generation goes on to its length whatever the model says.

A Prometheus of its own scrapes the server meanwhile. Exits with 1 when a request ends in an error that
the API does not document for overload, or when more requests were waiting than --max-waiting.
"""

import argparse
import asyncio
import csv
import pathlib
import sys
import time
from datetime import datetime

import grpc

import api
import panels
import report
import runs
import workload
from prometheus import Prometheus

# How requests may end when more arrive than the server can compute:
# proto/winnow/v1/generation.proto.
DOCUMENTED = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
CONNECTIONS = 8


def read_trace(path, limit):
    """[(seconds since the first request, prompt tokens, generated tokens)], in order of arrival."""
    with open(path, newline="") as lines:
        rows = [(datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                 int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(lines)]
    rows.sort()
    return [(at - rows[0][0], prompt, generated) for at, prompt, generated in rows[:limit]]


def scale_to_context(trace, context):
    """The factor by which the longest request fills the context, at most 1."""
    return min(1.0, (context - 1) / max(prompt + generated for _, prompt, generated in trace))


async def send(stub, prompt, generated, timeout):
    """One request: its line of requests.jsonl."""
    request = api.generation.GenerateRequest(
        tokens=api.generation.TokenIds(ids=prompt),
        sampling=api.generation.SamplingParams(temperature=0),
        stop=api.generation.StopConditions(max_tokens=generated, ignore_eos=True))
    begin, clock = time.time(), time.perf_counter()
    status, times = "OK", []
    try:
        async for response in stub.Generate(request, timeout=timeout):
            now = time.perf_counter() - clock
            tokens = sum(len(output.token_ids) for output in response.outputs)
            times.extend([now] * tokens)  # tokens of one message came at once
    except grpc.aio.AioRpcError as error:
        status = error.code().name
    record = {"start": begin, "seconds": time.perf_counter() - clock, "status": status,
              "prompt_tokens": len(prompt), "generated_tokens": len(times)}
    if times:
        record["ttft"] = times[0]
        record["gaps"] = [round(b - a, 6) for a, b in zip(times, times[1:])]
    return record


async def replay(trace, prompts, arguments):
    """All requests at their times; their records in the order they ended."""
    records, pending = [], set()

    async def record(*request):
        records.append(await send(*request, arguments.timeout))

    channels = [grpc.aio.insecure_channel(arguments.address, [("grpc.use_local_subchannel_pool", 1)])
                for _ in range(CONNECTIONS)]
    stubs = [api.generation_services.GenerationServiceStub(channel) for channel in channels]
    begin = time.perf_counter()
    for i, (at, prompt, generated) in enumerate(trace):
        await asyncio.sleep(begin + at / arguments.speedup - time.perf_counter())
        task = asyncio.ensure_future(record(stubs[i % CONNECTIONS], prompts.cut(prompt), generated))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    for channel in channels:
        await channel.close()
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=pathlib.Path)
    parser.add_argument("--address", default="127.0.0.1:50051", help="gRPC (default: %(default)s)")
    parser.add_argument("--metrics-address", default="127.0.0.1:9464", help="metrics (default: %(default)s)")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for the run, which may exist")
    parser.add_argument("--speedup", type=float, default=1, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, help="only the first so many (default: all)")
    parser.add_argument("--length-scale", type=float, help="(default: the longest request fits the context)")
    parser.add_argument("--timeout", type=float, default=60, help="deadline of a request in seconds (default: %(default)s)")
    parser.add_argument("--max-waiting", type=int, default=256, help="what the server runs with (default: %(default)s)")
    parser.add_argument("--text", type=pathlib.Path, help="what prompts are cut from (default: the project's docs)")
    arguments = parser.parse_args()

    trace = read_trace(arguments.trace, arguments.requests)
    scale = arguments.length_scale or scale_to_context(trace, api.context_tokens(arguments.address))
    trace = [(at, max(1, int(prompt * scale)), max(1, int(generated * scale))) for at, prompt, generated in trace]
    prompts = workload.Prompts(arguments.address, arguments.text.read_text() if arguments.text else None)

    with Prometheus(arguments.metrics_address) as prometheus:
        started = time.time()
        records = asyncio.run(replay(trace, prompts, arguments))
        time.sleep(2)  # for the last samples
        ended = time.time()
        captured = panels.capture(prometheus, started, ended)
        longest = max(value for _, points in prometheus.query_range(
            "winnow_requests_waiting", started, ended, 1) for _, value in points)
    runs.write(arguments.output, {
        "name": arguments.trace.stem, "address": arguments.address, "started": started, "ended": ended,
        "parameters": {"client": "replay", "trace": arguments.trace.name, "requests": len(trace),
                       "speedup": arguments.speedup, "length scale": round(scale, 4), "timeout": arguments.timeout,
                       "longest queue": longest, "max waiting": arguments.max_waiting}}, records, captured)
    run = runs.Run(arguments.output)
    report.write(run)
    print(report.text(run))

    unexpected = {status: count for status, count in run.statuses().items() if status not in DOCUMENTED}
    if unexpected:
        sys.exit(f"replay: requests ended in errors that overload does not explain: {unexpected}")
    if longest > arguments.max_waiting:
        sys.exit(f"replay: {longest:.0f} requests were waiting, and the bound is {arguments.max_waiting}")


if __name__ == "__main__":
    main()
