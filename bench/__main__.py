"""Measure it: python -m bench [--effort quick|standard|full] [--write] [PART ...]

Each part's section goes to stdout as soon as it is there, progress to stderr. Exit codes: 0; 1 when a part failed or
a goal is far off; 2 when nothing was measured, since an argument is wrong or a tool is missing.
"""

import argparse
import asyncio
import importlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.fanout import CENTRIFUGO
from bench.machine import NODE_MODULES, describe
from bench.results import Effort, Goal, Section
from bench.tools import CLIENT_CORE, pin
from demo.kafka import KAFKA_LIBS

PARTS = ("fanout", "handshakes", "users", "relay", "end_to_end", "cluster")
DOCS = Path(__file__).parent.parent / "docs"
FAILED, NOT_MEASURED = 1, 2


def missing(effort: Effort) -> Iterator[str]:
    """What is needed and not there, one line each, with what gets it."""
    packages = {"cc": "gcc libc6-dev", "node": "nodejs npm"}
    if effort is not Effort.QUICK:
        packages["java"] = "default-jre-headless"
    for program, package in packages.items():
        if shutil.which(program) is None:
            yield f"{program}: apt-get install {package}"
    if not (NODE_MODULES / "socket.io").exists():
        yield "npm's packages: scripts/ci/get-node"
    if effort is not Effort.QUICK and not any(KAFKA_LIBS.glob("kafka_*.jar")):
        yield "Apache Kafka: scripts/ci/get-kafka"


def run(parts: Sequence[str], effort: Effort) -> list[Section]:
    """The sections of the parts that did not fail."""
    sections: list[Section] = []
    start = time.monotonic()
    for number, part in enumerate(parts, 1):
        _say(f"{part}, {number} of {len(parts)}, {time.monotonic() - start:.0f} s since the start")
        try:
            sections.append(asyncio.run(importlib.import_module(f"bench.{part}").measure(effort)))
        except Exception:
            traceback.print_exc()
            _say(f"{part} FAILED")
        else:
            print(report.printed(sections[-1]), flush=True)
    _say(f"{len(sections)} of {len(parts)} parts measured in {time.monotonic() - start:.0f} s")
    return sections


def write(sections: Sequence[Section], machine: Mapping[str, str], effort: Effort) -> None:
    """docs/benchmarks.md and its plots; those of an earlier run that are no more are removed."""
    plots, folder = report.plots(sections), DOCS / report.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in plots:
            old.unlink()
    for name, text in plots.items():
        (folder / name).write_text(text)
    (DOCS / "benchmarks.md").write_text(report.document(sections, machine, effort))


def far_off(section: Section, goal: Goal) -> str:
    """What to tell about a goal that is: how far, and what to do."""
    assert goal.floor is not None
    floor = replace(goal, target=goal.floor)
    return (
        f"FAR OFF: {goal.what}: {report.measured(floor)}. The target is {report.target(goal)}; what is not "
        f"{report.target(floor)} fails. Measure again while nothing else runs: {section.command}. If it stays so, "
        "measure the commit before: then what changed since is the cause."
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway and the relay.")
    efforts = [effort.value for effort in Effort]
    parser.add_argument("--effort", choices=efforts, default=Effort.STANDARD.value, help="2 minutes, 15, or hours")
    parser.add_argument("--write", action="store_true", help="docs/benchmarks.md, when all parts were measured")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    if options.write and options.parts:
        parser.error("--write makes the whole document, so all parts have to be measured: name none")
    effort = Effort(options.effort)
    if lines := list(missing(effort)):
        _say("nothing was measured, since this is missing (what gets it is beside):")
        print(*(f"    {line}" for line in lines), sep="\n", file=sys.stderr)
        return NOT_MEASURED
    pin(os.getpid(), CLIENT_CORE)
    # Before the first part, so that it names the commit whose code runs.
    machine = describe()
    _say(", ".join(f"{name} {fact}" for name, fact in machine.items()))
    if not CENTRIFUGO.exists():
        _say("Centrifugo is left out: scripts/get-centrifugo builds it, with Go")
    every = PARTS[:-1] if effort is Effort.QUICK else PARTS  # no goal hangs on the last one
    parts = [part for part in PARTS if part in (options.parts or every)]
    sections = run(parts, effort)
    has_failed = len(sections) < len(parts)
    if options.write and has_failed:
        _say("docs/benchmarks.md was not written, since a part failed")
    elif options.write:
        write(sections, machine, effort)
        _say("docs/benchmarks.md is written")
    lines = [far_off(section, goal) for section in sections for goal in section.goals if goal.is_far_off]
    for line in lines:
        _say(line)
    return FAILED if has_failed or lines else 0


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
