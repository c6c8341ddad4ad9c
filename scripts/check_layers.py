#!/usr/bin/env python3
"""Checks from the include lines that the layers and rooms of docs/architecture.md hold.

    check_layers.py            says each breach in one line; exit status 1 if there is one
    check_layers.py --print    prints which folder includes which

The rules:
  - code includes its own layer and those below it: server -> engine -> kernels;
  - folders do not include each other in a circle;
  - gRPC and protobuf stay in server/grpc/ and in the files that make a client or its credentials,
    prometheus-cpp in server/observability/, CUDA in kernels/cuda/;
  - what they stay in is not included elsewhere either, except where a server is put together.
"""

import collections
import pathlib
import re
import subprocess
import sys

LAYERS = ["kernels", "engine", "server"]  # each may include those before it
# What comes from outside: how its headers begin, where they may be included, and where, besides,
# headers that include them.
OUTSIDE = {
    "gRPC or protobuf": (
        r"(grpc|grpcpp|google/(protobuf|rpc)|winnow/v1)/",
        (
            "server/grpc/",
            "server/security/tls.",
            "server/commands/client_options.",
            "server/commands/generate_client.",
            "server/commands/health_command.",
        ),
        ("server/commands/",),
    ),
    "prometheus-cpp": (r"prometheus/", ("server/observability/",), ("server/",)),
    "CUDA": (r"(cuda|cublas|cub/|mma\.h)", ("kernels/cuda/",), ()),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def reachable(name, headers):
    """The project's headers that a file includes, itself or through others, and how it gets there."""
    found, left = {}, [(name, [])]
    while left:
        current, way = left.pop()
        for target in headers.get(current, ()):
            if target not in found:
                found[target] = way + [target]
                left.append((target, found[target]))
    return found


def find_cycle(graph):
    """A list of folders that include each other in a circle, or None."""
    done, path = set(), []

    def visit(folder):
        if folder in path:
            return path[path.index(folder):] + [folder]
        if folder in done:
            return None
        path.append(folder)
        for target in sorted(graph[folder]):
            if cycle := visit(target):
                return cycle
        path.pop()
        done.add(folder)
        return None

    for folder in sorted(graph):
        if cycle := visit(folder):
            return cycle
    return None


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files", "--", *LAYERS], cwd=root, check=True, capture_output=True, text=True
    ).stdout.split()
    files = [f for f in listed if pathlib.Path(f).suffix in (".h", ".cc", ".cu", ".cuh")]
    graph = collections.defaultdict(lambda: collections.defaultdict(list))
    headers = collections.defaultdict(list)  # of the project, by the file that includes them
    outside = collections.defaultdict(list)  # what each file includes that must stay somewhere
    breaches = []
    for name in files:
        layer, folder = name.split("/")[0], str(pathlib.Path(name).parent)
        graph[folder]
        for kind, target in includes(root / name):
            target_layer = target.split("/")[0]
            if kind == '"' and target_layer in LAYERS:
                headers[name].append(target)
                if LAYERS.index(target_layer) > LAYERS.index(layer):
                    breaches.append(f"{name} includes {target}, which is a layer above it")
                target_folder = str(pathlib.Path(target).parent)
                if target_folder != folder:
                    graph[folder][target_folder].append(name)
                continue
            for what, (pattern, homes, _) in OUTSIDE.items():
                if not re.match(pattern, target):
                    continue
                outside[name].append(what)
                if not name.startswith(homes):
                    breaches.append(f"{name} includes {target}: {what} stays in {' '.join(homes)}")
    for name in files:
        for header, way in reachable(name, headers).items():
            for what in dict.fromkeys(outside[header]):
                _, homes, users = OUTSIDE[what]
                if header.startswith(homes) and not name.startswith(homes + users):
                    breaches.append(f"{name} includes {what} through {' -> '.join(way)}")
    if "--print" in sys.argv:
        for folder in sorted(graph):
            print(f"{folder}: {' '.join(sorted(graph[folder]))}")
    if cycle := find_cycle(graph):
        steps = [f"{a} -> {b} ({graph[a][b][0]})" for a, b in zip(cycle, cycle[1:])]
        breaches.append("folders include each other in a circle: " + ", ".join(steps))
    for breach in breaches:
        print(f"check_layers: {breach}", file=sys.stderr)
    if breaches:
        sys.exit(1)
    print(f"layers: {len(files)} files in {len(graph)} folders, no breach")


if __name__ == "__main__":
    main()
