"""Packages beside peers: what is timed, in which order, and what a ratio means."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tapeout import bench as bench_module
from tapeout.bench import BenchPlan, run, run_bench
from tapeout.bench_result import SubjectResult, compare, figure, markdown
from tapeout.bench_subjects import Subject, check_names, named_subject, read_peers
from tapeout.cli import main
from targets.errors import StageFailed, UsageError
from tests.conftest import Packages


def subject_result(name: str, ours: bool, seconds: list[float]) -> SubjectResult:
    sampled = {"16": figure([1e3 * each for each in seconds])}
    rates = {"16": figure([1 / each for each in seconds])}
    return SubjectResult(name, "openvino", ours, 1_000_000, {}, {}, sampled, rates, None, None)


def test_a_ratio_is_taken_within_a_round() -> None:
    """A machine that gets slower from round to round slows both: their ratio stays."""
    ours = subject_result("ours", True, [1.0, 2.0, 3.0, 4.0, 5.0])
    theirs = subject_result("theirs", False, [2.0, 4.0, 6.0, 8.0, 10.0])
    (found,) = compare([ours, theirs])
    assert (found.ttft.median, found.ttft.low, found.ttft.high) == (0.5, 0.5, 0.5)
    assert found.tokens_per_s.samples == pytest.approx([2.0] * 5, rel=1e-5)


def test_every_subject_runs_once_a_round_and_the_order_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []

    def fake(subject: Subject, plan: BenchPlan, task: dict[str, object]) -> dict[str, object]:
        order.append(subject.name)
        return {"figures": {"16": [0.1, 0.01]}, "versions": {"runtime": "1"}}

    monkeypatch.setattr(bench_module, "run", fake)
    subjects = [Subject(name, "openvino", tmp_path, name == "a") for name in "abc"]
    found = run_bench(subjects, BenchPlan(rounds=3, prompts=(16,)), None, lambda text: None)
    assert order == list("abcbcacab")
    assert [(one.package, one.peer) for one in found.ratios] == [("a", "b"), ("a", "c")]
    assert "| a / b | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |" in markdown(found)


def test_both_runtimes_are_timed_and_written(tiny_packages: Packages, tmp_path: Path) -> None:
    folders = {kind: tiny_packages["llama", "w8-sym", name].folder for kind, name in KINDS.items()}
    also = ["--also", f"ours=openvino:{folders['openvino']}"]
    peers = tmp_path / "peers.toml"
    peers.write_text(f'[[peers]]\nname = "peer"\nkind = "genai"\npath = "{folders["genai"]}"\n')
    command = ["bench", *also, "--peers", str(peers), "--rounds", "1", "--prompt", "8", "--tokens", "4"]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out"), "--threads", "1", "--clock", "cpu"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert found["schema_version"] == 1
    assert found["plan"] == {"rounds": 1, "prompts": [8], "new_tokens": 4, "threads": 1, "clock": "cpu"}
    assert [one["name"] for one in found["subjects"]] == ["ours", "peer"]
    assert all(one["tokens_per_s"]["8"]["median"] > 0 for one in found["subjects"])
    assert found["subjects"][1]["versions"]["onnxruntime-genai"]
    assert len(found["ratios"]) == 1
    assert (tmp_path / "out" / "bench.md").read_text() in done.output


KINDS = {"openvino": "openvino", "genai": "onnxruntime"}


def test_a_worker_that_fails_is_named(tmp_path: Path) -> None:
    subject = Subject("nothing here", "openvino", tmp_path, True)
    with pytest.raises(StageFailed, match=r"nothing here failed with 1: .*config\.json"):
        run(subject, BenchPlan(prompts=(8,)), {"task": "time"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[peers]]\nname = 1", "a peer has no name"),
        ('[[peers]]\nname = "a"\nkind = "onnx"\npath = "."', "unknown kind 'onnx'"),
        ('[[peers]]\nname = "a"\nkind = "llama"\npath = "no.gguf"', "no.gguf is not there"),
        ('[[peers]]\nname = "a"\nkind = "llama"\npath = "."\nthread = 1', "a peer has no key 'thread'"),
        ("[peers]\n", "something else than"),
        ("peers = ", "no list of peers"),
    ],
)
def test_a_wrong_file_of_peers_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_peers(tmp_path / "peers.toml")


def test_a_peer_has_its_own_interpreter_and_settings(tmp_path: Path) -> None:
    text = '[[peers]]\nname = "a"\nkind = "llama"\npath = "."\npython = "{}"\nsettings = {{ n_ubatch = 128 }}'
    (tmp_path / "peers.toml").write_text(text.format(sys.executable))
    (found,) = read_peers(tmp_path / "peers.toml")
    assert (found.python, found.settings, found.ours) == (Path(sys.executable), {"n_ubatch": 128}, False)


def test_names_tell_subjects_apart(tmp_path: Path) -> None:
    mine = named_subject(f"mine=openvino:{tmp_path}")
    with pytest.raises(UsageError, match="two subjects are called 'mine'"):
        check_names([mine, mine])
    with pytest.raises(UsageError, match="no package to time"):
        check_names([])
    with pytest.raises(UsageError, match="names no package"):
        named_subject("openvino:folder")
