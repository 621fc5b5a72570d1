"""The parts of the benchmark suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.benchmarks.case import Case
from tests.benchmarks.chart import Bar, Group, chart
from tests.benchmarks.count_calls import count_calls, head_server, look_up_costs
from tests.benchmarks.images import blobs_of, write_archive, write_image
from tests.benchmarks.implementations import PATH_VARIABLE, Implementation, Kind, baseline, tools, version_of
from tests.benchmarks.installed import environment_without_python
from tests.benchmarks.measuring import Failed, PersistentProcess, Sample, Samples, measure
from tests.benchmarks.registries import registry_program
from tests.benchmarks.report import Outcome, figures, verdicts, write_report
from tests.benchmarks.suite import command_of, parsed
from tests.scale import FULL

from registry_adapters import open_client

ROOT = Path(__file__).resolve().parents[3]
BASELINES = ROOT / "tests" / "benchmarks" / "programs" / "baselines.py"
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def implementation(name: str, kind: Kind = Kind.PEER) -> Implementation:
    return Implementation(name, name, kind, lambda context: [])


def outcome(case: str, **walls: float) -> Outcome:
    result = Outcome(Case(case, case, [implementation(name) for name in walls]))
    result.samples = {name: Samples([Sample(wall, wall, 10)]) for name, wall in walls.items()}
    return result


def test_a_look_up_makes_at_most_95_calls() -> None:
    with head_server() as host, open_client(f"http://{host}/repository") as client:
        client.get_digest("v1")
        calls = count_calls(lambda: client.get_digest("v2"))

    assert calls["registry_adapters/http/session.py:Session.send"] == 1
    assert calls.total() <= 95, calls.most_common()


def test_the_cost_of_look_ups_is_measured() -> None:
    with head_server() as host:
        costs = look_up_costs(host, count=2, rounds=1)

    assert all(cost > 0 for cost in costs)


def test_median_and_span_cover_all_runs() -> None:
    samples = Samples([Sample(3, 0, 0), Sample(1, 0, 0), Sample(2, 0, 0)])

    assert samples.median("wall") == 2
    assert samples.span("wall") == (1, 3)


def test_a_measured_process_costs_memory_and_time(tmp_path: Path) -> None:
    sample = measure([sys.executable, "-c", "bytes(range(256)) * 400_000"], tmp_path / "log", ENVIRONMENT)

    assert sample.wall > 0
    assert sample.cpu > 0
    assert sample.memory > 80


def test_a_failed_program_gives_no_sample(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="exit status 3: no luck"):
        measure([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], tmp_path / "log", ENVIRONMENT)


def test_a_persistent_process_runs_several_operations(tmp_path: Path) -> None:
    write_image(tmp_path / "image", "tiny", True)

    with PersistentProcess([sys.executable, str(BASELINES), "--persistent"], tmp_path / "log", ENVIRONMENT) as process:
        samples = [process.measure(["sha256", str(tmp_path / "image")]) for _ in range(2)]

    assert all(sample.wall > 0 for sample in samples)


def test_the_error_output_of_an_exited_process_is_reported(tmp_path: Path) -> None:
    with PersistentProcess([sys.executable, str(BASELINES), "--persistent"], tmp_path / "log", ENVIRONMENT) as process:
        with pytest.raises(Failed, match="KeyError"):
            process.measure(["nonsense"])


def test_images_are_reproducible(tmp_path: Path) -> None:
    write_image(tmp_path / "one", "tiny", True)
    write_image(tmp_path / "two", "tiny", True)

    assert (tmp_path / "one" / "index.json").read_bytes() == (tmp_path / "two" / "index.json").read_bytes()


def test_an_image_has_the_blobs_that_it_names(tmp_path: Path) -> None:
    write_image(tmp_path / "image", "tiny", True)
    _, _, descriptors = blobs_of(tmp_path / "image")
    blobs = tmp_path / "image" / "blobs" / "sha256"

    for descriptor in descriptors:
        assert (blobs / descriptor["digest"].removeprefix("sha256:")).stat().st_size == descriptor["size"]
    subprocess.run([sys.executable, BASELINES, "sha256", tmp_path / "image"], check=True, env=ENVIRONMENT)


def test_archives_are_reproducible(tmp_path: Path) -> None:
    write_image(tmp_path / "image", "tiny", True)

    write_archive(tmp_path / "image", tmp_path / "one.tar")
    write_archive(tmp_path / "image", tmp_path / "two.tar")

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_the_version_of_a_program_is_not_that_of_its_compiler(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\necho built with go1.27.3, v0.11.5\n")
    program.chmod(0o755)

    assert version_of(program) == "0.11.5"


def test_a_registry_in_the_search_directories_is_preferred(tmp_path: Path) -> None:
    program = tmp_path / "registry3"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    assert registry_program([tmp_path]) == str(program)


def test_a_quick_run_has_no_targets(tmp_path: Path) -> None:
    results = [outcome("pull big", ociport=2.0, crane=1.0)]

    assert "## Targets" not in figures(results, command="", runs=1, is_quick=True)
    assert "**missed**" in figures(results, command="", runs=1, is_quick=False)


def test_the_command_in_the_report_has_no_paths(tmp_path: Path) -> None:
    chosen = parsed(["--runs", "3", "--only", "pull big", "--scratch", str(tmp_path), "--out", str(tmp_path)])

    assert command_of(chosen) == "python tests/benchmarks/run.py --only 'pull big' --runs 3"


def test_the_newest_version_of_a_tool_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("crate", "1.9.3"), ("crate122", "1.22.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} version {version}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path))

    found = tools(["crate", "missing"])

    assert [tool.name for tool in found["crate"]] == ["crate 1.22.0", "crate 1.9.3"]
    assert found["missing"] == []


@pytest.mark.parametrize(("wall", "word"), [(1.0, "| 1.00 x | met |"), (1.2, "| 1.20 x | **missed** |")])
def test_a_target_is_met_or_missed(wall: float, word: str) -> None:
    rows = list(verdicts({"pull big": outcome("pull big", ociport=wall, crane=1.0)}))

    assert rows[0].endswith(word)


def test_a_target_without_the_other_tool_is_not_measured() -> None:
    rows = list(verdicts({"pull big": outcome("pull big", ociport=1.0)}))

    assert rows[0].endswith("| not measured |")


def test_an_installation_does_not_inherit_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that keeps Python from compiling would make each start of a program slower."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "src")

    environment = environment_without_python()

    assert "PATH" in environment
    assert not [name for name in environment if name.startswith("PYTHON")]


def test_a_report_keeps_the_text_around_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nbehind\n")

    write_report([outcome("pull big", ociport=1.0, crane=2.0)], tmp_path, command="", runs=1, is_quick=False)

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nbehind\n")
    assert "old" not in text
    assert "| crane | 2.00 (2.00-2.00) | 2.00 | 10 | 0.50 x |" in text


def test_a_report_lists_failures(tmp_path: Path) -> None:
    result = outcome("pull big", ociport=1.0, crane=2.0)
    result.failures["crane"] = "no luck"

    write_report([result], tmp_path, command="", runs=1, is_quick=False)

    assert "crane failed: `no luck`" in (tmp_path / "benchmarks.md").read_text()


def test_the_chart_has_a_bar_for_each_implementation() -> None:
    svg = ElementTree.fromstring(chart([Group("a <work>", [Bar("one", 1, "ours"), Bar("two", 2, "peer")])]))

    bars = [bar for bar in svg.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert float(bars[1].get("width", "")) == pytest.approx(2 * float(bars[0].get("width", "")), abs=0.1)


def test_a_baseline_has_its_own_role() -> None:
    assert baseline("cp", lambda context: []).kind is Kind.BASELINE


@pytest.mark.slow
@pytest.mark.usefixtures("docker_registry_program")
def test_a_small_run_writes_the_report(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, ROOT / "tests" / "benchmarks" / "run.py", "--quick", "--in-place"]
    command += [
        "--runs",
        "1",
        "--only",
        "pull many" if FULL else "tags",
        "--out",
        tmp_path / "out",
        "--scratch",
        tmp_path / "room",
    ]

    subprocess.run(command, check=True, capture_output=True)

    page = (tmp_path / "out" / "benchmarks.md").read_text()
    assert "| **ociport** |" in page
    assert "| **ociport, in process** |" in page
    assert "ociport failed" not in page
    assert "<svg" in (tmp_path / "out" / "benchmarks.svg").read_text()
