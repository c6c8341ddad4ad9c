#!/usr/bin/env python3
"""Speed of Winnow against llama.cpp on the same GGUF file and machine: prompt processing and token
generation, alternating runs, medians and ratios, beside what the machine could do at most.

    loadtest/compare_llamacpp.py --model MODEL --llama-bin DIR          binaries that are there
    loadtest/compare_llamacpp.py --model MODEL --build DIR              fetch and build them in DIR first

llama.cpp runs with as many threads as cores, with flash attention on and off; its better median counts.
Every sequence of a batch has keys and values of its own in both programs. The table goes to stdout,
everything measured to --output. Needs Python's standard library alone.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Carries llama.cpp's source in vendor/llama.cpp.
LLAMA_PACKAGE = "llama-cpp-python==0.3.36"
LLAMA_TOOL = "llama-batched-bench"
GENERATED_TOKENS = 32
FLASH_ATTENTION = ("off", "on")


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table: a prompt of `context` tokens, or one token for each of `batch`
    sequences of `context` tokens."""

    kind: str  # "prompt" or "generation"
    context: int
    batch: int = 1


def build_llama(folder):
    """Fetches the source and builds the benchmark; returns the folder of the binaries."""
    folder.mkdir(parents=True, exist_ok=True)
    binaries = folder / "build" / "bin"
    if (binaries / LLAMA_TOOL).exists():
        return binaries
    with tempfile.TemporaryDirectory(dir=folder) as download:
        name = LLAMA_PACKAGE.split("==")[0]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
                        name, "--dest", download, LLAMA_PACKAGE], check=True)
        (archive,) = pathlib.Path(download).glob("*.tar.gz")
        subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    (source,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    subprocess.run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja",
                    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF",
                    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"], check=True)
    subprocess.run(["cmake", "--build", folder / "build", "--target", LLAMA_TOOL], check=True)
    return binaries


def run_json(command):
    """Runs a command and returns the JSON object that its output holds, on a line of its own."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))


def measure_llama(binaries, model, threads, flash, case):
    """Tokens per second. The context of generation is `case.context` in the middle of the run."""
    if case.kind == "prompt":
        prompt, generated = case.context, 1
    else:
        prompt, generated = case.context - GENERATED_TOKENS // 2, GENERATED_TOKENS
    # The prompt is computed once and its keys and values copied to each sequence (-pps). Each gets
    # an equal share of -c, in steps of 256.
    sequence_tokens = -(-(prompt + generated + 1) // 256) * 256
    result = run_json([
        binaries / LLAMA_TOOL, "-m", model, "-t", str(threads), "-fa", flash,
        "-c", str(case.batch * sequence_tokens), "-b", "2048", "-ub", "512",
        "-npp", str(prompt), "-ntg", str(generated), "-npl", str(case.batch), "-pps",
        "--output-format", "jsonl",
    ])
    return result["speed_pp"] if case.kind == "prompt" else result["speed_tg"]


def measure_winnow(winnow, model, threads, case):
    """The JSON of `winnow bench`."""
    command = [winnow, "bench", "decode" if case.kind == "generation" else "prefill", "--model", model,
               "--device", "cpu", "--threads", str(threads), "--context", str(case.context), "--json"]
    if case.kind == "generation":
        command += ["--batch", str(case.batch)]
    return run_json(command)


def measure_ceilings(threads):
    source = pathlib.Path(__file__).with_name("machine_ceilings.c")
    with tempfile.TemporaryDirectory() as folder:
        binary = pathlib.Path(folder) / "machine_ceilings"
        subprocess.run(["cc", "-O3", "-march=native", "-pthread", source, "-o", binary], check=True)
        return run_json([binary, str(threads)])


def busy_share():
    """Share of the processors' time that others take just now."""

    def sample():
        fields = [int(x) for x in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all, idle and waiting for disks

    total, idle = sample()
    time.sleep(0.3)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def ceiling(case, winnow, machine):
    """Tokens per second that memory (generation) or arithmetic (prompt) would allow for the bytes or
    operations that Winnow counts for the case."""
    if case.kind == "generation":
        step_bytes = winnow["weight_bytes_read"] + winnow["kv_bytes_read"]
        return case.batch * machine["read_bytes_per_second"] / step_bytes
    flops_per_token = winnow["achieved_flops_per_second"] / winnow["tokens_per_second"]
    return machine["fp32_flops_per_second"] / flops_per_token


def tabulate(report):
    machine = report["machine"]
    lines = [
        f"{report['processor']}, {machine['threads']} threads; read {machine['read_bytes_per_second'] / 1e9:.1f} GB/s, "
        f"fp32 {machine['fp32_flops_per_second'] / 1e9:.0f} GFLOP/s, "
        f"int8 {machine['int8_operations_per_second'] / 1e9:.0f} GOP/s; {report['model']}; "
        f"medians of {report['rounds']} alternating runs; others took at most "
        f"{100 * report['busy_share']:.0f} % of the processors before a run.",
        "",
        "| tokens/s | context | batch | llama.cpp (flash attention) | Winnow | ratio | ceiling | Winnow / ceiling |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["results"]:
        limit = "memory" if row["kind"] == "generation" else "fp32"
        ours = [f"{row[key]:{form}}" if key in row else "" for key, form in
                (("winnow", ".1f"), ("ratio", ".2f"), ("ceiling", ".0f"), ("share_of_ceiling", ".2f"))]
        if ours[2]:
            ours[2] += f" ({limit})"
        lines.append(f"| {row['kind']} | {row['context']} | {row['batch']} | "
                     f"{row['llama']:.1f} ({row['llama_flash_attention']}) | {' | '.join(ours)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--llama-bin", type=pathlib.Path, help=f"folder that holds {LLAMA_TOOL}")
    where.add_argument("--build", type=pathlib.Path, help="folder to fetch and build llama.cpp in")
    parser.add_argument("--model", required=True, help="GGUF file, as scripts/fetch_model.sh prints")
    parser.add_argument("--winnow", type=pathlib.Path, default=ROOT / "build" / "release" / "winnow")
    parser.add_argument("--llama-only", action="store_true", help="measure llama.cpp alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="*", default=[128, 512, 1024, 4096])
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 1024, 4096])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compare_llamacpp.json"))
    arguments = parser.parse_args()

    binaries = build_llama(arguments.build.resolve()) if arguments.build else arguments.llama_bin
    cases = [Case("prompt", context) for context in arguments.prompts]
    cases += [Case("generation", context, batch) for context in arguments.contexts
              for batch in arguments.batches]

    machine = measure_ceilings(arguments.threads)
    llama = {(case, flash): [] for case in cases for flash in FLASH_ATTENTION}
    winnow = {case: [] for case in cases}
    busy = 0.0
    for round_number in range(1, arguments.rounds + 1):
        for case in cases:
            if sys.stderr.isatty():
                print(f"\rround {round_number}/{arguments.rounds}: {case.kind}, context {case.context}, "
                      f"batch {case.batch}    ", end="", file=sys.stderr)
            if not arguments.llama_only:
                busy = max(busy, busy_share())
                winnow[case].append(measure_winnow(arguments.winnow, arguments.model, arguments.threads, case))
            for flash in FLASH_ATTENTION:
                busy = max(busy, busy_share())
                llama[case, flash].append(
                    measure_llama(binaries, arguments.model, arguments.threads, flash, case))
    if sys.stderr.isatty():
        print(file=sys.stderr)

    results = []
    for case in cases:
        medians = {flash: statistics.median(llama[case, flash]) for flash in FLASH_ATTENTION}
        best = max(FLASH_ATTENTION, key=medians.get)
        row = dataclasses.asdict(case) | {
            "llama": medians[best],
            "llama_flash_attention": best,
            "llama_runs": {flash: llama[case, flash] for flash in FLASH_ATTENTION},
        }
        if winnow[case]:
            ours = statistics.median(run["tokens_per_second"] for run in winnow[case])
            limit = ceiling(case, winnow[case][0], machine)
            row |= {"winnow": ours, "ratio": ours / medians[best], "ceiling": limit,
                    "share_of_ceiling": ours / limit, "winnow_runs": winnow[case]}
        results.append(row)

    report = {
        "model": pathlib.Path(arguments.model).resolve().name,
        "processor": processor(),
        "machine": machine,
        "rounds": arguments.rounds,
        "busy_share": busy,
        "llama_package": LLAMA_PACKAGE,
        "results": results,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
