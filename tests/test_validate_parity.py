"""Tokenizer and template parity: the corpus, the comparison, and the cure of ONNX Runtime GenAI's digit splitting."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from compile.onnxruntime_tokenizer import split_steps, write_split_tokenizer
from export.model import Model
from targets.errors import InputRefused, StageFailed
from tests.tiny_folder import load_tokenizer
from validate.golden_text import prompts, texts
from validate.parity import IDS, ROUND_TRIP, TEMPLATE, measure_parity, parting
from validate.parity_corpus import EDGE, GENERATED, conversations, generated, samples
from validate.parity_template import mentions_tools, render_conversation

DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# With and without system messages, loops, tools and whitespace control; the second refuses system messages.
CHATML = (
    "{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{% for message in messages %}[{{ message['content'] | trim }}]{% endfor %}"
)


class Faithful:
    """A runtime whose tokenizer and template are the model's own; tests break it in one place each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def apply_template(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
        return render_conversation(self.folder, messages, tools) or ""


@pytest.fixture
def folder(tiny_model: Model, tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(tiny_model.folder / name, tmp_path / name)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    return tmp_path


def with_pre_tokenizer(folder: Path, pre_tokenizer: dict[str, Any] | None) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": pre_tokenizer}))
    return folder


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def test_the_corpus_covers_what_tokenizers_get_wrong() -> None:
    count = Counter(sample.category for sample in samples())
    assert sum(count.values()) - GENERATED >= 300
    wanted = {"combining", "right-to-left", "emoji", "east-asian", "control", "space-digit", "leading", "very long"}
    assert all(count[category] >= 8 for category in wanted | {"special", "digits", EDGE})
    assert max(len(sample.text) for sample in samples()) > 20_000
    assert len({(sample.category, sample.text) for sample in samples()}) > len(samples()) - 10
    asked = conversations()
    assert sum(each.tools is not None for each in asked) >= 4
    assert sum(each.messages[0]["role"] == "system" for each in asked) >= 5
    assert max(len(each.messages) for each in asked) >= 20


def test_generated_strings_are_the_same_in_every_run() -> None:
    assert generated() == generated()
    assert generated()[0].text == " \u2009\t"
    assert len({sample.text for sample in generated()}) == GENERATED


def test_a_faithful_runtime_has_no_mismatch(folder: Path) -> None:
    parity = measure_parity(Faithful(folder), folder, more=["Turn left."])
    assert parity.total == 0
    assert parity.examples == ()
    assert parity.edge_mismatches == 0
    assert parity.strings["requests"] == 1
    assert parity.strings["generated"] == GENERATED
    assert parity.conversations == len(conversations())
    assert parity.skipped == 0


def test_other_ids_are_found_and_shown(folder: Path) -> None:
    class Splitting(Faithful):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace("\n\n1", "\n1"))

    parity = measure_parity(Splitting(folder), folder)
    assert parity.mismatches["space-digit"] >= 2
    assert parity.examples[0].kind == IDS
    assert "\\n\\n1" in parity.examples[0].ours


def test_text_lost_in_decoding_is_found(folder: Path) -> None:
    class Losing(Faithful):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).removeprefix(" ")

    parity = measure_parity(Losing(folder), folder)
    assert parity.mismatches["leading"] >= 10
    assert {example.kind for example in parity.examples} == {ROUND_TRIP}


def test_another_prompt_is_found(folder: Path) -> None:
    class Polite(Faithful):
        def apply_template(
            self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
        ) -> str:
            added = [] if messages[0]["role"] == "system" else [{"role": "system", "content": "Be nice."}]
            return super().apply_template([*added, *messages], tools)

    parity = measure_parity(Polite(folder), folder)
    without_system = sum(each.messages[0]["role"] != "system" for each in conversations())
    assert parity.mismatches == {TEMPLATE: without_system}
    assert parity.examples[0].category == "user"


def test_edge_strings_are_counted_and_not_gated(folder: Path) -> None:
    class Stopping(Faithful):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.split("\x00", maxsplit=1)[0])

    parity = measure_parity(Stopping(folder), folder)
    assert parity.total == 0
    assert parity.edge_mismatches >= 2
    assert parity.edge_strings == sum(sample.category == EDGE for sample in samples())


def test_tools_are_asked_only_of_a_template_that_knows_them(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHATML.split("{%- endif", maxsplit=1)[0].split("{% endif %}", 1)[1])
    assert not mentions_tools(folder)
    parity = measure_parity(Faithful(folder), folder)
    assert parity.skipped == sum(each.tools is not None for each in conversations())


def test_a_conversation_that_the_template_refuses_is_not_counted_as_compared(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(STRICT)
    parity = measure_parity(Faithful(folder), folder)
    refused = sum(each.tools is not None or each.messages[0]["role"] == "system" for each in conversations())
    assert (parity.skipped, parity.conversations) == (refused, len(conversations()) - refused)
    assert parity.compared == sum(parity.strings.values()) + parity.conversations


def test_conversations_are_rendered_as_transformers_does(folder: Path) -> None:
    for template in (
        CHATML,
        "{%- for m in messages %}\n  {{- m.role }}: {{ m.missing }}{{ m | tojson }}\n{%- endfor %}",
    ):
        (folder / "chat_template.jinja").write_text(template)
        theirs = load_tokenizer(folder)
        for each in conversations():
            tools = None if each.tools is None else list(each.tools)
            wanted = theirs.apply_chat_template(
                list(each.messages), tools=tools, tokenize=False, add_generation_prompt=True
            )
            assert render_conversation(folder, each.messages, each.tools) == wanted, each.name


def test_a_template_may_refuse_and_may_not_fail(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(STRICT)
    assert render_conversation(folder, ({"role": "system", "content": "x"},), None) is None
    assert render_conversation(folder, ({"role": "user", "content": " x "},), None) == "[x]"
    path.write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InputRefused, match="fails"):
        render_conversation(folder, ({"role": "user", "content": "x"},), None)


def test_digit_splitting_is_written_as_splits_that_mean_the_same(folder: Path) -> None:
    with_pre_tokenizer(folder, sequence(DIGITS, BYTES))
    before = Faithful(folder)
    assert write_split_tokenizer(folder)
    stored = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    assert [step["type"] for step in stored] == ["Split", "Split", "ByteLevel"]
    after = Faithful(folder)
    for text in [*(sample.text for sample in samples()), *texts(), *prompts()]:
        assert before.encode(text) == after.encode(text)
    assert not write_split_tokenizer(folder)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        None,
        BYTES,
        sequence(BYTES),
        sequence({"type": "Digits", "individual_digits": False}, BYTES),
        sequence(DIGITS, BYTES | {"add_prefix_space": True}),
        sequence(DIGITS, BYTES | {"use_regex": False}),
    ],
)
def test_other_pre_tokenizers_are_left_alone(folder: Path, pre_tokenizer: dict[str, Any] | None) -> None:
    with_pre_tokenizer(folder, pre_tokenizer)
    before = (folder / "tokenizer.json").read_bytes()
    assert split_steps(pre_tokenizer) is None
    assert not write_split_tokenizer(folder)
    assert (folder / "tokenizer.json").read_bytes() == before


def test_a_rewriting_that_changes_ids_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pre_tokenizer(folder, sequence(DIGITS, BYTES))
    before = (folder / "tokenizer.json").read_bytes()
    monkeypatch.setattr("compile.onnxruntime_tokenizer.GPT2_PATTERN", r"\s+|\S+")
    with pytest.raises(StageFailed, match="reads"):
        write_split_tokenizer(folder)
    assert (folder / "tokenizer.json").read_bytes() == before


def test_onnxruntime_reads_the_rewritten_tokenizer_as_the_model_does(folder: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    with_pre_tokenizer(folder, sequence(DIGITS, BYTES))
    wanted = Faithful(folder)
    config = {"model": {"type": "llama", "context_length": 64, "vocab_size": 512}}
    (folder / "genai_config.json").write_text(json.dumps(config))

    def differing() -> int:
        tokenizer = genai.Tokenizer(genai.Config(str(folder)))
        gated = [sample.text for sample in samples() if sample.category != EDGE]
        return sum([int(token) for token in tokenizer.encode(text)] != wanted.encode(text) for text in gated)

    assert differing() > 20
    assert write_split_tokenizer(folder)
    assert differing() == 0


def test_where_two_readings_part() -> None:
    assert parting([1, 2, 3], [1, 5, 3]) == 1
    assert parting([1, 2], [1, 2, 3]) == 2
    assert parting("", "") == 0
