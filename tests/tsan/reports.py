#!/usr/bin/env python3
"""Judges what ThreadSanitizer reported: reports.py FOLDER.

gRPC, protobuf and Abseil come from the distribution and are not instrumented. What they order among their own threads by
atomics looks like races of theirs, hundreds of them. A report counts when both accesses were made by our code, on behalf
of the standard library or not, and gRPC has not ordered them. A thread that nobody joined counts if our code started it:
gRPC leaves some of its own to the end of the process. Whatever else is no data race counts, too.
"""

import pathlib
import re
import sys

# Frames that act for the one who called them.
HELPERS = re.compile(r"libtsan|libstdc\+\+|/include/c\+\+/|/include/absl/")
OURS = re.compile(r"(^|[ /])(engine|kernels|server|tests)/\S+\.(cc|h):\d+")
# gRPC calls these in order: once the call's start has returned, after the write that they are
# about, OnDone at the very end. What passes between them and the engine goes through RequestStream,
# which stream_test.cc tries without gRPC; that nothing uses a call that is done is for
# AddressSanitizer.
REACTIONS = re.compile(r"#\d+ .*\bOn(Cancel|Done|WriteDone)\b.* \S*server/grpc/\w+\.(cc|h):")


def owner(stack):
    """The innermost frame that is no helper."""
    frames = re.findall(r"#\d+ (.*)", stack)
    return next((frame for frame in frames if not HELPERS.search(frame)), "")


def counts(report):
    if "WARNING: ThreadSanitizer: thread leak" in report:
        return bool(OURS.search(owner(report)))
    if "WARNING: ThreadSanitizer: data race" not in report:
        return True
    accesses = [part for part in re.split(r"\n  (?=\S)", report) if re.match(r"(previous )?(atomic )?(read|write) ", part, re.I)]
    if any(REACTIONS.search(access) for access in accesses):
        return False
    return all(OURS.search(owner(access)) for access in accesses)


def main():
    reports = []
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*")):
        reports += [text for text in path.read_text(errors="replace").split("=" * 18) if "WARNING: ThreadSanitizer" in text]
    ours = [report for report in reports if counts(report)]
    print("\n".join(ours))
    print(f"tsan: {len(reports)} reports, {len(ours)} of our code")
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
