"""Calls through the structured output of the shipped runtimes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from compile.package import Package
from export.hub import OnnxModel
from tests.test_validate_vehicle_scores import ignore, small_suite
from validate.runtime import find_runtime
from validate.vehicle import Request, call_text
from validate.vehicle_calls import golden_calls
from validate.vehicle_guided import measure_guided, read_call
from validate.vehicle_ranking import golden_ranking

Packages = dict[tuple[str, str, str], Package]

__all__ = ["small_suite"]  # a fixture


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{\n "name": "set_fan",\n "arguments": {"level": 3}\n}', True),
        ('{"name": "set_fan", "arguments": {}}', False),
        ('{"name": "fly", "arguments": {}}', False),
        ('{"name": "end_route", "arguments": []}', False),
        ('{"name": "set_fan", "arguments": {"level": 3}', False),
        ("[]", False),
    ],
)
def test_what_is_a_call(text: str, valid: bool) -> None:
    assert (read_call(text) is not None) == valid


def test_guided_calls_are_counted(
    tiny_hub: OnnxModel, small_suite: Callable[[], list[Request]], tmp_path: Path
) -> None:
    path = golden_ranking(tiny_hub, None, tmp_path, ignore)
    assert path is not None
    reference = json.loads(golden_calls(tiny_hub, path, 4, tmp_path, ignore).read_text())
    first, second, *_ = reference.values()
    texts = [first, second, "no call", call_text({"name": "end_route", "arguments": {}})]

    class Product:
        """A runtime with structured output that fails once."""

        asked = 0

        def write_json(self, prompt: Sequence[int], schema: str, new_tokens: int) -> str:
            assert "anyOf" in json.loads(schema)
            self.asked += 1
            return str(texts[self.asked - 1])

    guided = measure_guided(Product(), tmp_path, None, ignore)
    assert guided.requests == len(reference) == 4
    assert guided.valid == 0.75
    assert guided.examples == (([*reference][2], "no call"),)
    assert guided.tool_agreement in (0.5, 0.75)
    assert measure_guided(Product(), tmp_path, 2, ignore).tool_agreement == 1.0


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_runtimes_own_engine_keeps_to_the_schema(tiny_packages: Packages, backend: str) -> None:
    package = tiny_packages["llama", "w8-asym", backend]
    runtime = find_runtime(backend)
    assert runtime is not None
    pipeline = runtime.pipeline(package.folder, package.settings)
    assert pipeline is not None
    writer: Any = pipeline
    schema = json.dumps({"enum": ["ab", "b 7", "cd"]})
    assert json.loads(writer.write_json([5, 6, 7], schema, 40)) in ("ab", "b 7", "cd")
