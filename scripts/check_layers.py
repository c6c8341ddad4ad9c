#!/usr/bin/env python3
"""Checks from the include lines that the layers and rooms of docs/architecture.md hold.

    check_layers.py            says each breach in one line; exit status 1 if there is one
    check_layers.py --print    prints which folder includes which

The rules:
  - code includes its own layer and those below it: server -> engine -> kernels;
  - folders do not include each other in a circle;
  - gRPC and protobuf stay in server/, CUDA in kernels/cuda/.
"""

import collections
import pathlib
import re
import subprocess
import sys

LAYERS = ["kernels", "engine", "server"]  # each may include those before it
OUTSIDE = {
    "gRPC or protobuf": (r"(grpc|grpcpp|google/protobuf|winnow/v1)/", "server/"),
    "prometheus-cpp": (r"prometheus/", "server/"),
    "CUDA": (r"(cuda|cublas|cub/|mma\.h)", "kernels/cuda/"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


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
    breaches = []
    for name in files:
        layer, folder = name.split("/")[0], str(pathlib.Path(name).parent)
        graph[folder]
        for kind, target in includes(root / name):
            target_layer = target.split("/")[0]
            if kind == '"' and target_layer in LAYERS:
                if LAYERS.index(target_layer) > LAYERS.index(layer):
                    breaches.append(f"{name} includes {target}, which is a layer above it")
                target_folder = str(pathlib.Path(target).parent)
                if target_folder != folder:
                    graph[folder][target_folder].append(name)
                continue
            for what, (pattern, home) in OUTSIDE.items():
                if re.match(pattern, target) and not name.startswith(home):
                    breaches.append(f"{name} includes {target}: {what} stays in {home}")
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
