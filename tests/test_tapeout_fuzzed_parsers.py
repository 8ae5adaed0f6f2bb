"""Whatever a parser of ours is given, it answers or raises an error of ours, and soon."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.config_check import check_config
from export.digest import canonical_json
from export.folder_check import check_folder
from export.gguf_config import config_of
from export.gguf_reader import read_gguf
from export.gguf_vocabulary import read_vocabulary
from export.remembered_digests import MEMORY, recall
from export.safetensors_check import check_safetensors
from export.source import parse_source
from export.strict_json import parse_object
from export.template_process import fault_of
from quantize.calibration import read_texts
from quantize.recipe import parse_recipe
from quantize.scheme import parse_scheme
from tapeout.manifest import MANIFEST, differences, read_manifest
from tapeout.remote_link import Link, checked
from tapeout.remote_place import Place, parse_place
from tapeout.stage_key import Provenance, Record, stage_key
from targets.errors import TapeoutError
from targets.legality import check_recipe
from targets.target import DATA, load_target
from tests.hostile_base import CONFIG, write_sound
from tests.hostile_gguf import SMALL
from tests.sample_report import sample_report
from tests.tiers import FUZZED
from tests.tiny_gguf import byte_level, write_model
from validate.chat import render_prompt
from validate.choices import read_items
from validate.report import read_report, to_json

Bytes = st.SearchStrategy[bytes]
SLOW_MS = 5000

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
FRAGMENTS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"NaN", b"1e999", b"-1", b"\0", b"\xff", b"\\ud800"),
    *(b"[" * 5000, b"9" * 5000, b"\xed\xa0\x80", b"true", b'"schema_version":', b"\n", b"=", b"\x1b[2J"),
)


def mutated(seed: bytes) -> Bytes:
    """The seed with pieces cut out, doubled, or replaced."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = seed
        for place, length, piece in edits:
            start = place % (len(data) + 1)
            data = data[:start] + piece + data[start + length :]
        return data

    piece = st.binary(max_size=8) | st.sampled_from(FRAGMENTS)
    return st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 12), piece), max_size=6).map(apply)


def documents(seed: Any) -> Bytes:
    """The seed as JSON, with values of any type in the place of some of its own; and mutations of its text."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        document = copy.deepcopy(seed)
        for _ in range(draw(st.integers(1, 3))):
            holder = document
            while holder:
                key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
                if isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
                    holder = holder[key]
                    continue
                holder[key] = draw(VALUES)
                break
        return json.dumps(document).encode()

    return changed() | mutated(json.dumps(seed).encode()) | st.binary(max_size=40)


@dataclass(frozen=True)
class Files:
    """Sound files that fuzzing starts from, and a place to write to."""

    folder: Path
    model: Path
    gguf: bytes


def at(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A parser of files as one of bytes."""

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return parse


def parse_gguf(path: Path) -> None:
    gguf = read_gguf(path)
    config_of(gguf, read_vocabulary(gguf))


def parse_frames(data: bytes) -> None:
    """What a device sends, as the client reads it: a greeting passed over, then an answer."""
    link = object.__new__(Link)
    link.place, link.python, link.buffer = Place("board"), "3.11", b""
    link.answers, told = os.pipe()
    try:
        os.write(told, data[:60_000] + b"\n")
        os.close(told)
        checked(link.answer(lambda done, total: None), link.place)
    finally:
        os.close(link.answers)


def parse_bundle(folder: Path) -> None:
    differences(folder, read_manifest(folder))


def render(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8", errors="replace")
    render_prompt(folder, "Hello")


WORDS = st.text(max_size=40) | st.lists(
    st.sampled_from(["hf:", "a/b", "@", "0" * 40, "..", "/", "\0", "w4", "-sym", "-asym", "-g", "64", "+gptq", "+keep"])
    | st.sampled_from(["user", "[::1]", ":22", ":99999", "%eth0", "-oProxyCommand=x", " ", "$(id)", "9" * 30, "-cw"]),
    max_size=6,
).map("".join)
TEMPLATES = st.lists(
    st.sampled_from(
        ["{{ ", " }}", "{% for m in messages %}", "{% endfor %}", "{% if ", " %}", "{% endif %}", "messages"]
    )
    | st.sampled_from(
        ["[0]", "['content']", ".x", "|tojson", "|length", " + ", "'a'", " ~ ", "1", "{#", "#}", "()", "-"]
    )
    | st.sampled_from(
        ["raise_exception('no')", "namespace(a=1)", "{% set x = ", "tools", "{% break %}", "|join", "is "]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


def parsers(files: Files) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], object]]]:
    """Every parser with what it is given."""
    folder, model = files.folder, files.model
    config: Any = CONFIG
    weights = (model / "model.safetensors").read_bytes()
    report = to_json(sample_report()).encode()
    record = Record(
        stage="s", version="1", parameters={}, inputs={}, tools={}, key="0" * 64, object="0" * 64, files={}, sizes={}
    ).encode()
    manifest = {
        "schema_version": 2,
        "sequence": 0,
        "identity": "x",
        "files": {"a": "b" * 64},
        "sizes": {"a": 1},
        "packages": {"p": {"backend": "null"}},
    }
    item = {"question": "q", "choices": ["a", "b"], "answer": 0}
    job = {"conversations": [{"messages": [{"role": "user", "content": "x"}]}] * 2, "characters": 1000}
    return {
        "strict JSON": (documents({"a": [1, {"b": None}]}), lambda data: parse_object(data, "x")),
        "safetensors header": (
            mutated(weights[:3000]) | documents({"t": {"dtype": "F32"}}).map(_headed),
            at(folder / "x.safetensors", check_safetensors),
        ),
        "GGUF": (
            mutated(files.gguf) | st.binary(max_size=64).map(b"GGUF\3\0\0\0".__add__),
            at(folder / "x.gguf", parse_gguf),
        ),
        "config.json": (documents(config), lambda data: check_config(Path("config.json"), parse_object(data, "x"))),
        "tokenizer_config.json": (
            documents(json.loads((model / "tokenizer_config.json").read_text())),
            at(folder / "altered" / "tokenizer_config.json", lambda path: check_folder(path.parent)),
        ),
        "source": (WORDS, parse_source),
        "recipe": (WORDS, parse_recipe),
        "scheme": (WORDS, parse_scheme),
        "legality of a recipe": (WORDS, lambda name: check_recipe(name, "openvino-cpu")),
        "target file": (
            mutated((DATA / "null.toml").read_bytes()),
            at(folder / "x.toml", lambda path: load_target(str(path))),
        ),
        "manifest": (documents(manifest), at(folder / "bundle" / MANIFEST, lambda path: parse_bundle(path.parent))),
        "report": (documents(json.loads(report)), at(folder / "report.json", read_report)),
        "record of the store": (mutated(record) | documents(json.loads(record)), Record.decode),
        "calibration text": (documents({"text": "a"}), at(folder / "text.jsonl", read_texts)),
        "questions": (documents(item), at(folder / "questions.jsonl", read_items)),
        "stage key": (VALUES, lambda value: stage_key("s", "1", {"value": value}, {}, {})),
        "place": (WORDS, parse_place),
        "digests that are remembered": (documents({"/x": [1, 2, 3, 4, 5, "0" * 64]}), at(folder / MEMORY, recall)),
        "answers of a device": (
            documents({"error": {"type": "NoSpace", "what": "x", "help": "y"}}) | documents({"progress": [1, 2]}),
            parse_frames,
        ),
        "chat template at the import": (TEMPLATES, lambda text: fault_of(job | {"template": text})),
        "chat template at the measurement": (TEMPLATES, lambda text: render(folder / "template", text)),
    }


def _headed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


NAMES = (
    "strict JSON", "safetensors header", "GGUF", "config.json", "tokenizer_config.json", "source", "recipe", "scheme",
    "legality of a recipe", "target file", "manifest", "report", "record of the store", "calibration text", "questions",
    "stage key", "place", "digests that are remembered", "answers of a device",
    "chat template at the import", "chat template at the measurement",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "bundle").mkdir()
    (folder / "template").mkdir()
    (folder / "template" / "tokenizer_config.json").write_text("{}")
    path = write_model(folder / "seed.gguf", SMALL, byte_level("gpt-2"))
    write_sound(folder / "altered")
    return Files(folder, write_sound(folder / "model"), path.read_bytes()[:20_000])


@FUZZED.each
@pytest.mark.parametrize("name", NAMES)
def test_a_parser_answers_or_refuses(files: Files, name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A connection that ends is asked for the reason of its ssh, and there is none here.
    monkeypatch.setattr(Link, "failure", lambda self: TapeoutError("gone", "connect again"))
    strategy, parse = parsers(files)[name]

    @settings(
        max_examples=size,
        deadline=SLOW_MS,
        derandomize=size == FUZZED.bounded,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def survives(value: Any) -> None:
        refusal = None
        try:
            parse(value)
        except TapeoutError as error:
            refusal = error
        assert refusal is None or (refusal.what and refusal.help)

    survives()


def test_every_parser_is_fuzzed(files: Files) -> None:
    assert tuple(parsers(files)) == NAMES


def test_the_fuzzing_starts_from_what_is_accepted(files: Files, tmp_path: Path) -> None:
    """Mutations of something refused for another reason would prove little."""
    assert read_report(_written(tmp_path / "report.json", to_json(sample_report()).encode()))
    check_config(Path("config.json"), dict(CONFIG))
    assert check_folder(files.model)["model_type"] == "llama"
    assert Provenance(stage="s", version="1", parameters={}, inputs={}, tools={}).stage == "s"
    assert canonical_json({"a": 1}) == b'{"a":1}'


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
