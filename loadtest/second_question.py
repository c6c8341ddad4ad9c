#!/usr/bin/env python3
"""Time to first token of a second question about a document that the KV pool has no room for any more.

    loadtest/second_question.py --model "$(scripts/fetch_model.sh)" -- --kv-host-bytes 1000000000

Starts a server and asks about --documents documents in turn, more than its KV pool holds, --rounds times, with another
question each time. In the first round every document is computed, in later ones what the prefix cache has of it is not.
Flags after -- go to the server.
"""

import argparse
import statistics
import time

import grpc

import api
import overload
import workload

QUESTION_TOKENS = 24
ANSWER_TOKENS = 8


def ask(stub, prompt):
    """(seconds to the first token, prompt tokens that the prefix cache had) of a prompt of tokens."""
    request = api.generation.GenerateRequest(
        tokens=api.generation.TokenIds(ids=prompt),
        sampling=api.generation.SamplingParams(temperature=0),
        stop=api.generation.StopConditions(max_tokens=ANSWER_TOKENS, ignore_eos=True))
    begin, first, cached = time.perf_counter(), None, 0
    for response in stub.Generate(request):
        first = first or time.perf_counter() - begin
        cached = max(cached, response.summary.usage.cached_tokens)
    return first, cached


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=overload.ROOT / "build/release/winnow", help="(default: %(default)s)")
    parser.add_argument("--model", required=True, help="the GGUF file to serve")
    parser.add_argument("--tokens", type=int, default=8000, help="of a document (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("flags", nargs="*", help="for the server")
    arguments = parser.parse_args()
    command = [arguments.binary, "serve", "--model", arguments.model, *arguments.flags]
    with overload.Server(command) as server, grpc.insecure_channel(server.address) as channel:
        stub = api.generation_services.GenerationServiceStub(channel)
        prompts = workload.Prompts(server.address)
        documents = [prompts.cut(arguments.tokens) for _ in range(arguments.documents)]
        ask(stub, prompts.cut(QUESTION_TOKENS))  # what a first step alone takes
        medians = []
        for turn in range(arguments.rounds):
            asked = [ask(stub, document + prompts.cut(QUESTION_TOKENS)) for document in documents]
            medians.append(statistics.median(seconds for seconds, _ in asked))
            print(f"round {turn + 1}: TTFT {' '.join(f'{seconds:.3f}' for seconds, _ in asked)} s, median "
                  f"{medians[-1]:.3f}, cached tokens {' '.join(str(cached) for _, cached in asked)}; "
                  f"{server.resident_megabytes():.0f} MB", flush=True)
    print(f"computed in {medians[0]:.3f} s; then in {statistics.median(medians[1:]):.3f} s, "
          f"{medians[0] / statistics.median(medians[1:]):.1f} times as fast")


if __name__ == "__main__":
    main()
