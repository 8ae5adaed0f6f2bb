"""A roofline counts what a token reads, says what share of the roof is reached, and is in every form of the report."""

from dataclasses import replace
from pathlib import Path

import pytest

from compile.package import Package
from tests.conftest import Packages
from tests.sample_report import candidate, sample_report
from validate.bandwidth import (
    LEAST_BYTES,
    LEAST_ROUNDS,
    MOST_BYTES,
    Bandwidth,
    buffer_bytes,
    last_level_cache,
    measure_bandwidth,
)
from validate.measurement import Latency, Sampled
from validate.render_markdown import render_markdown
from validate.render_terminal import plain_lines
from validate.roofline import point_of, roofline_of, weights_read
from validate.roofline_words import roofline_sentences

BANDWIDTH = Bandwidth(20e9, 19e9, 2, LEAST_BYTES, 9)


def timed(prompt: int, tpot_ms: float) -> Latency:
    time = Sampled(tpot_ms, tpot_ms, tpot_ms, (tpot_ms,) * 3)
    return Latency(prompt, 16, time, time, (tpot_ms,) * 48)


def test_bandwidth_is_read_by_every_thread_in_rounds() -> None:
    found = measure_bandwidth(2, budget_s=0.0)
    assert (found.threads, found.rounds) == (2, LEAST_ROUNDS)
    assert LEAST_BYTES <= found.buffer_bytes <= MOST_BYTES
    assert 1e8 < found.median_bytes_per_second <= found.bytes_per_second < 1e13


def test_buffers_are_much_larger_than_the_cache_and_never_all_of_the_memory(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "105M", "none")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 105 << 20
    assert buffer_bytes(105 << 20) == 420 << 20
    assert buffer_bytes(1 << 20) == buffer_bytes(None) == LEAST_BYTES
    assert buffer_bytes(1 << 30) == MOST_BYTES
    assert last_level_cache(tmp_path / "nothing") is None


def test_a_token_reads_the_weights_and_the_cache_halfway_through_the_answer() -> None:
    point = point_of(timed(512, 8.0), 100_000_000, 10_000, BANDWIDTH)
    assert (point.context_tokens, point.bytes_per_token) == (520, 105_200_000)
    assert point.roof == pytest.approx(20e9 / 105_200_000)
    assert point.fraction == pytest.approx(125 / point.roof)
    assert point.bound == "bandwidth"
    assert point_of(timed(512, 12.0), 100_000_000, 10_000, BANDWIDTH).bound == "overhead"


def test_a_table_that_is_only_looked_up_is_not_read(tiny_packages: Packages, tmp_path: Path) -> None:
    package = tiny_packages["llama", "w8-sym", "onnxruntime"]
    stored = (package.folder / "model.onnx.data").stat().st_size
    facts = package.facts
    rotary = facts.max_positions * facts.head_dim * 4
    tied = replace(package, facts=replace(facts, tied_embeddings=True))
    assert weights_read(tied) == stored - rotary
    untied = replace(package, facts=replace(facts, tied_embeddings=False))
    assert weights_read(tied) - weights_read(untied) == facts.vocab_size * (facts.hidden_size + 4)


def test_what_openvino_reads_is_what_its_own_graph_holds(tiny_packages: Packages) -> None:
    from validate.openvino_runtime import OpenVino

    package = tiny_packages["llama", "w8-sym", "openvino"]
    (placement,) = OpenVino().placement(package.folder, package.settings)
    held = sum(placement.weight_bytes.values())
    found = roofline_of(package, [timed(8, 1.0), timed(16, 1.0)], BANDWIDTH)
    assert found is not None
    assert found.cache_bytes_per_token == 2 * package.facts.n_layers * package.facts.n_kv_heads * (
        package.facts.head_dim + 8
    )
    assert [point.prompt_tokens for point in found.points] == [8, 16]
    assert 0.5 * held < found.weight_bytes < 1.5 * held


def test_a_package_whose_bytes_cannot_be_counted_has_no_roofline(tiny_packages: Packages) -> None:
    package: Package = tiny_packages["llama", "w8-sym", "openvino"]
    assert roofline_of(replace(package, backend="qnn"), [timed(8, 1.0)], BANDWIDTH) is None
    assert roofline_of(replace(package, settings={}), [timed(8, 1.0)], BANDWIDTH) is None


def test_what_is_read_without_a_page_has_it_too() -> None:
    report = sample_report()
    (sentence,) = roofline_sentences(candidate("openvino", "w8-asym").measurement)
    assert "overhead-bound" in sentence
    assert "35.0 GB/s that 2 threads read" in sentence
    assert sentence.split(";")[0] in render_markdown(report)
    assert any(sentence in line for line in plain_lines(report))
