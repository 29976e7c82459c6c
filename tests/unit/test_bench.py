"""bench: what the measurements gave is judged and told, whatever a part does. No part measures here."""

import asyncio
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.latency import needs_cc
from harness.waiting import eventually
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from bench import __main__ as bench
from bench import fanout, machine, report
from bench.plot import svg
from bench.results import Effort, Goal, Plot, Section, Table
from bench.tools import LoadClient, on_all_cores

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {"date": "2026-11-28", "commit": "0123abc+"}

Measure = Callable[[Effort], Awaitable[Section]]


def section(name: str, goal: Goal | None = None) -> Section:
    plot = Plot(f"plot-of-{name}", "Much, by little", "little", "much", {"one": [(1, 2), (3, 4)]})
    table = Table(["server", "rate"], [["gateway", "1"], ["a | b", "2"]])
    return Section(f"Part {name}", f"python -m bench {name}", "What was done.", [goal] if goal else [], [table], [plot])


# What is measured


@pytest.mark.parametrize("size", [0, 80, 98, 99, 250, 1_000])
def test_centrifugo_is_sent_what_its_redis_broker_takes(size: int) -> None:
    text = json.dumps({"x": "y" * size}).encode()
    ((command, channel, publication),) = fanout._publish_for_centrifugo(text)
    assert (command, channel) == ("PUBLISH", "centrifugo.client.bench")
    assert isinstance(publication, bytes)
    head, data = publication.split(b"{", 1)
    assert json.loads(b"{" + data) == {"type": "regime_change", "data": json.loads(text)}
    assert head[0] == 4 << 3 | 2, "field 4, with a length"
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:])) == len(data) + 1
    assert [byte >> 7 for byte in head[1:]] == [1] * (len(head) - 2) + [0], "all but the last go on"


def test_what_is_to_have_all_cores_does_not_inherit_one() -> None:
    """Of a process that is kept on one, as the benchmarks are."""
    cores = os.sched_getaffinity(0)
    ask = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]

    def of_a_child() -> int:
        return int(subprocess.run(ask, capture_output=True, check=True).stdout)

    os.sched_setaffinity(0, {min(cores)})
    try:
        with on_all_cores():
            assert of_a_child() == len(cores)
        assert of_a_child() == 1
    finally:
        os.sched_setaffinity(0, cores)


@needs_cc
async def test_the_load_client_counts_messages_also_where_a_frame_has_several() -> None:
    are_all_there, sent = asyncio.Event(), []

    async def serve(socket: ServerConnection) -> None:
        await are_all_there.wait()  # all that is sent before the last client is there is not counted
        await socket.send('{"n":1}\n{"n":2}\n{"n":3}')
        await socket.send('{"n":4}')
        sent.append(socket)
        await socket.wait_closed()

    async with serve_websockets(serve, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        try:
            async with LoadClient(port, "/", 3, 3_600) as clients:
                are_all_there.set()
                await eventually(lambda: len(sent) == 3, "all to be sent")
                assert (await clients.stop()).messages == 12
        finally:
            are_all_there.set()  # else the server waits for those that wait


# Goals


@pytest.mark.parametrize(
    ("measured", "is_limit", "is_met", "is_far_off"),
    [
        (0.8, False, True, False),
        (0.79, False, False, False),
        (0.4, False, False, False),
        (0.39, False, False, True),
        (0.8, True, True, False),
        (0.81, True, False, False),
        (1.6, True, False, False),
        (1.61, True, False, True),
    ],
)
def test_a_goal_is_met_up_to_its_target_and_far_off_beyond_its_floor(
    measured: float, is_limit: bool, is_met: bool, is_far_off: bool
) -> None:
    goal = Goal("it", measured, 0.8, is_limit, floor=1.6 if is_limit else 0.4)
    assert (goal.is_met, goal.is_far_off) == (is_met, is_far_off)


@pytest.mark.parametrize("is_limit", [True, False])
def test_a_goal_without_a_floor_is_never_far_off(is_limit: bool) -> None:
    assert not any(Goal("it", measured, 1.0, is_limit).is_far_off for measured in (-1e9, 0.0, 1e9))


# Report


@pytest.mark.parametrize(
    ("goal", "target", "measured"),
    [
        (Goal("it", 1234567.4, 1e6), "at least 1,000,000", "1,234,567"),
        (Goal("it", 55_138, 25_000), "at least 25,000", "55,138"),
        (Goal("it", 12.345, 10), "at least 10", "12.3"),
        (Goal("it", 0.8312, 0.8, spread=(0.7, 1.0)), "at least 0.8", "0.83 (0.70 to 1.00)"),
        (Goal("it", 7, 7, spread=(6, 8)), "at least 7", "7 (6 to 8)"),
        (Goal("it", 0.00512, 0.01, is_limit=True), "at most 0.01", "0.0051"),
        (Goal("it", 0, 0, is_limit=True), "at most 0", "0"),
        (Goal("it", 0.0, 1.0, spread=(0.0, 0.5)), "at least 1", "0.00 (0.00 to 0.50)"),
        (Goal("it", float("inf"), 60, is_limit=True), "at most 60", "inf"),
        # As rounded they would seem to be on the target's other side.
        (Goal("it", 0.7996, 0.8), "at least 0.8", "0.7996"),
        (Goal("it", 24_999.6, 25_000), "at least 25,000", "24,999.6"),
        (Goal("it", 60.04, 60, is_limit=True), "at most 60", "60.04"),
    ],
)
def test_numbers_of_goals_are_as_people_read_them(goal: Goal, target: str, measured: str) -> None:
    assert (report.target(goal), report.measured(goal)) == (target, measured)


def test_the_document_has_all_goals_in_one_table_then_the_sections_then_the_machine() -> None:
    sections = [
        section("first", Goal("events/s", 30_000, 25_000)),
        section("second", Goal("ms, p99", 12.5, 10, is_limit=True, spread=(9, 15.25))),
    ]
    text = report.document(sections, MACHINE, Effort.STANDARD)
    expected = [
        "# Benchmarks",
        "`make bench` measured it on 2026-11-28",
        "## Goals",
        "1 of 2 are reached",
        "| goal | target | measured | reached |\n|---|---|---|---|\n"
        "| events/s | at least 25,000 | 30,000 | yes |\n"
        "| ms, p99 | at most 10 | 12.5 (9.0 to 15.2) | **no** |\n\n",
        "## Part first\n\n`python -m bench first`\n\nWhat was done.\n\n"
        "| server | rate |\n|---|---|\n| gateway | 1 |\n| a \\| b | 2 |\n\n"
        "![Much, by little](benchmarks/plot-of-first.svg)\n\n",
        "## Part second\n",
        "## Machine and versions\n\n| what | which |\n|---|---|\n| date | 2026-11-28 |\n| commit | 0123abc+ |\n",
    ]
    places = [text.find(part) for part in expected]
    assert -1 not in places
    assert places == sorted(places)
    assert text.endswith("0123abc+ |\n")


def test_a_printed_section_has_its_goals_and_no_plots() -> None:
    text = report.printed(section("first", Goal("events/s", 30_000, 25_000)))
    assert "| events/s | at least 25,000 |" in text
    assert "![" not in text
    assert "| goal |" not in report.printed(section("first"))


def test_two_plots_of_the_same_name_are_told() -> None:
    with pytest.raises(ValueError, match="plot-of-first"):
        report.plots([section("first"), section("first")])


# Plot


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def drawn(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of the lines, as they are on the page."""
    wide = (path.get("d", "") for path in root.iter(f"{SVG}path") if path.get("stroke-width") == "2")
    split = (line[1:].split("L") for line in wide if "L" in line)
    return [[(float(x), float(y)) for x, y in (point.split() for point in points)] for points in split]


def test_a_plot_is_small_deterministic_and_has_title_labels_ticks_and_legend() -> None:
    lines: dict[str, Sequence[tuple[float, float]]] = {
        "p50 <&>": [(number, number * 2) for number in range(1000)],
        "p99": [(0, 100), (999, 1234)],
    }
    plot = Plot("it", "Latency & load", "events/s", "ms", lines)
    text = svg(plot)
    assert text == svg(plot)
    assert len(text) < 20_000
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{SVG}title") == "Latency & load"
    assert {"Latency & load", "events/s", "ms", "p50 <&>", "p99", "0", "500", "1,000", "2,000"} <= set(texts(root))
    assert [len(line) for line in drawn(root)] == [1000, 2]


def test_on_linear_axes_equal_steps_have_equal_lengths() -> None:
    (line,) = drawn(ElementTree.fromstring(svg(Plot("it", "It", "x", "y", {"one": [(0, -5), (1, 0), (2, 5)]}))))
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y1 > y2


def test_on_logarithmic_axes_equal_factors_have_equal_lengths() -> None:
    points = [(1, 0.25), (10, 0.5), (100, 1)]
    root = ElementTree.fromstring(svg(Plot("it", "It", "x", "y", {"one": points}, is_logarithmic=True)))
    ((x1, y1), (x2, y2), (x3, y3)), *_ = drawn(root)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert {"1", "2", "5", "10", "20", "50", "100", "0.2", "0.5"} <= set(texts(root))


@pytest.mark.parametrize("is_logarithmic", [True, False])
@pytest.mark.parametrize(
    "points",
    [[], [(1, 1)], [(0, 0)], [(-3, -2)], [(5, 7), (5, 7)], [(1, float("nan")), (2, float("inf"))], [(1e-7, 1e12)]],
)
def test_a_plot_of_next_to_nothing_is_one(points: list[tuple[float, float]], is_logarithmic: bool) -> None:
    text = svg(Plot("it", "It", "x", "y", {"one": points}, is_logarithmic))
    ElementTree.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text.replace("font-family", "")


# Machine


def test_the_machine_is_described_without_saying_whose_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "NODE_MODULES", tmp_path)
    monkeypatch.setattr(machine, "KAFKA_LIBS", tmp_path)
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "package.json").write_text(json.dumps({"version": "8.0.1"}))
    (tmp_path / "kafka_2.13-4.4.0.jar").touch()
    facts = machine.describe()
    assert facts["ws"] == "8.0.1"
    assert facts["Apache Kafka"] == "4.4.0"
    assert "socket.io" not in facts
    assert facts["Valkey"].count(".") == 2
    assert {"date", "CPU", "cores", "memory", "kernel", "Python", "uvloop", "FastAPI", "uvicorn"} <= set(facts)
    assert not any("://" in fact or str(machine.ROOT) in fact for fact in facts.values())


# The command


class Parts:
    """Fakes in place of the parts; `ran` are those that were measured, in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.ran: list[tuple[str, Effort]] = []

    def have(self, **results: Goal | Exception | None) -> None:
        """These and no others: each with a goal that it measures, or what it raises."""
        self._monkeypatch.setattr(bench, "PARTS", tuple(results))
        for name, result in results.items():
            module = SimpleNamespace(measure=self._measure(name, result))
            self._monkeypatch.setitem(sys.modules, f"bench.{name}", module)

    def _measure(self, name: str, result: Goal | Exception | None) -> Measure:
        async def measure(effort: Effort) -> Section:
            self.ran.append((name, effort))
            if isinstance(result, Exception):
                raise result
            return section(name, result)

        return measure


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    return tmp_path


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, docs: Path) -> Parts:
    monkeypatch.setattr(bench, "missing", lambda effort: iter(()))
    monkeypatch.setattr(bench, "describe", lambda: MACHINE)
    monkeypatch.setattr(bench, "pin", lambda pid, core: None)
    return Parts(monkeypatch)


def test_all_parts_run_in_their_order_and_write_the_document(
    parts: Parts, docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (docs / "benchmarks").mkdir()
    (docs / "benchmarks" / "of-old.svg").touch()
    parts.have(one=Goal("events/s", 3, 2), two=None)
    assert bench.main(["--write"]) == 0
    assert parts.ran == [("one", Effort.STANDARD), ("two", Effort.STANDARD)]
    assert "| events/s | at least 2 | 3 | yes |" in (docs / "benchmarks.md").read_text()
    assert sorted(file.name for file in (docs / "benchmarks").iterdir()) == ["plot-of-one.svg", "plot-of-two.svg"]
    out, err = capsys.readouterr()
    assert out.index("## Part one") < out.index("## Part two")
    assert "one, 1 of 2, 0 s since the start" in err


def test_named_parts_run_alone_and_write_nothing(parts: Parts, docs: Path) -> None:
    parts.have(one=None, two=None, three=None)
    assert bench.main(["--effort", "quick", "three", "one"]) == 0
    assert parts.ran == [("one", Effort.QUICK), ("three", Effort.QUICK)]
    assert not (docs / "benchmarks.md").exists()


def test_a_part_that_fails_does_not_end_the_others_and_nothing_is_written(
    parts: Parts, docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.have(one=RuntimeError("7 messages were lost"), two=None)
    assert bench.main(["--write"]) == 1
    assert [name for name, _ in parts.ran] == ["one", "two"]
    assert not list(docs.iterdir())
    out, err = capsys.readouterr()
    assert "## Part two" in out
    assert "RuntimeError: 7 messages were lost" in err
    assert "bench: one FAILED" in err


def test_a_part_that_cannot_be_imported_fails(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "PARTS", ("nowhere",))
    assert bench.main([]) == 1
    assert "No module named 'bench.nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        (
            Goal("times the C loop", 0.3996, 0.8, spread=(0.3, 0.5), floor=0.4),
            "0.3996 (0.3000 to 0.5000). The target is at least 0.8; what is not at least 0.4 fails.",
        ),
        (
            Goal("memory", 2.0, 1.0, is_limit=True, floor=1.5),
            "2. The target is at most 1; what is not at most 1.5 fails.",
        ),
    ],
)
def test_a_goal_that_is_far_off_fails_and_says_what_to_do(
    parts: Parts, docs: Path, capsys: pytest.CaptureFixture[str], goal: Goal, told: str
) -> None:
    parts.have(one=None, two=goal)
    assert bench.main(["--write"]) == 1
    assert (docs / "benchmarks.md").exists()
    line = next(line for line in capsys.readouterr().err.splitlines() if "FAR OFF" in line)
    assert f"{goal.what}: {told}" in line
    assert "python -m bench two" in line


def test_a_goal_that_is_not_reached_is_no_failure(parts: Parts) -> None:
    parts.have(one=Goal("times the C loop", 0.5, 0.8, floor=0.4))
    assert bench.main([]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--write", "one"], "--write makes the whole document"), (["three"], "no such part: three (there are one, two)")],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(
    parts: Parts, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    parts.have(one=None, two=None)
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    assert not parts.ran
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("effort", list(Effort))
def test_missing_tools_are_named_with_what_gets_them_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, docs: Path, capsys: pytest.CaptureFixture[str], effort: Effort
) -> None:
    monkeypatch.setenv("PATH", str(docs))
    monkeypatch.setattr(bench, "NODE_MODULES", docs)
    monkeypatch.setattr(bench, "KAFKA_LIBS", docs)
    monkeypatch.setattr(bench, "run", lambda parts, effort: pytest.fail("it was measured"))
    assert bench.main(["--effort", effort.value]) == 2
    lines = capsys.readouterr().err.splitlines()[1:]
    expected = ["cc: apt-get install gcc", "node: apt-get install nodejs", "npm's packages: scripts/ci/get-node"]
    if effort is not Effort.QUICK:
        expected[2:2] = ["java: apt-get install default-jre-headless"]
        expected.append("Apache Kafka: scripts/ci/get-kafka")
    assert len(lines) == len(expected)
    assert all(beginning in line for line, beginning in zip(lines, expected, strict=True))
