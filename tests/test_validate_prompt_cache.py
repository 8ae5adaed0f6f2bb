"""A prompt cache changes no bit of what follows it, and is refused by all that did not compute it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import validate.prompt_cache
from compile.package import Package
from targets.errors import DeviceMissing, InputRefused, IntegrityError, TapeoutError, UsageError
from tests.conftest import Packages
from validate.chat import render_messages
from validate.prompt_cache import LOADERS, STATE, PromptCache, find_loader, make_prompt_cache, open_prompt_cache
from validate.prompt_cache_measure import WORDS, measure_prompt_cache
from validate.prompt_prefix import Prefix, prefix_tokens, read_prefix
from validate.runtime import find_runtime

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<answer>"
SYSTEM = Prefix("Be brief.")
TEXT = [5, 9, 11, 40, 7, 23, 31, 2, 60, 18]


def with_template(package: Package, folder: Path, template: str = TEMPLATE) -> Package:
    """A copy whose chat template knows system prompts, as the tiny model's does not."""
    shutil.copytree(package.folder, folder, copy_function=shutil.copyfile)
    (folder / "chat_template.jinja").write_text(template)
    return replace(package, folder=folder)


@pytest.fixture(scope="module", params=sorted(LOADERS))
def package(
    request: pytest.FixtureRequest, tiny_packages: Packages, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    """Of each runtime that takes a state; in float32, so that every processor computes the same."""
    made = with_template(tiny_packages["llama", "w8-sym", request.param], tmp_path_factory.mktemp("cached") / "package")
    exact = {"INFERENCE_PRECISION_HINT": "f32"} if request.param == "openvino" else {}
    return replace(made, settings={**made.settings, **exact})


@pytest.fixture(scope="module")
def cache(package: Package, tmp_path_factory: pytest.TempPathFactory) -> PromptCache:
    return make_prompt_cache(package, SYSTEM, tmp_path_factory.mktemp("state"))


def test_the_state_is_the_prefix_in_every_layer(package: Package, cache: PromptCache) -> None:
    facts = package.facts
    assert cache.load().shape == (facts.n_layers, 2, facts.n_kv_heads, len(cache.tokens), facts.head_dim)
    assert len(cache.tokens) > 5
    assert open_prompt_cache(cache.folder, package.folder, package.settings) == cache


def test_what_follows_a_loaded_state_is_the_same_to_the_bit(package: Package, cache: PromptCache) -> None:
    runtime = find_runtime(package.backend)
    assert runtime is not None
    found = measure_prompt_cache(runtime, package, cache, TEXT, lambda done, total: None)
    assert found.bit_equal
    assert found.largest_difference == 0
    assert found.kl_mean < 1e-3
    assert (found.tokens, found.words, len(found.ttft_ms.samples)) == (len(cache.tokens), WORDS, 5)
    assert found.state_bytes == (cache.folder / STATE).stat().st_size


def test_another_state_gives_other_logits(package: Package, cache: PromptCache) -> None:
    loader = find_loader(package.backend)
    right = loader.cached_session(package.folder, package.settings, cache.load()).step(np.array(TEXT))
    wrong = loader.cached_session(package.folder, package.settings, cache.load() * 0).step(np.array(TEXT))
    assert np.abs(right[-1] - wrong[-1]).max() > 1e-4


def test_every_request_begins_after_the_prefix(package: Package, cache: PromptCache) -> None:
    runtime = find_runtime(package.backend)
    assert runtime is not None
    shipped = runtime.pipeline(package.folder, package.settings)
    assert shipped is not None
    cached = find_loader(package.backend).cached_pipeline(package.folder, package.settings, cache.load())
    expected = shipped.generate([*cache.tokens, *TEXT], 8, stop=False).tokens
    assert [cached.generate(TEXT, 8, stop=False).tokens for _ in range(3)] == [expected] * 3


def test_a_prompt_is_cut_after_the_prefix_or_refused(cache: PromptCache) -> None:
    assert cache.rest([*cache.tokens, 4, 5]) == [4, 5]
    for prompt in ([], [4, 5], list(cache.tokens), [*cache.tokens[:-1], 4, 5]):
        with pytest.raises(UsageError, match="does not begin with the cached prefix"):
            cache.rest(prompt)


def refusal(cache: Path, package: Path, settings: dict[str, object]) -> tuple[type[TapeoutError], str]:
    with pytest.raises(TapeoutError) as caught:
        open_prompt_cache(cache, package, settings)
    return type(caught.value), caught.value.what


def test_a_state_is_refused_by_all_that_did_not_compute_it(
    package: Package, cache: PromptCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "package"
    shutil.copytree(package.folder, copy, copy_function=shutil.copyfile)
    (copy / "generation_config.json").write_text("{}")
    kind, what = refusal(cache.folder, copy, package.settings)
    assert (kind, "another package" in what) == (IntegrityError, True)
    (copy / "tokenizer.json").write_text("{}")
    assert "another tokenizer" in refusal(cache.folder, copy, package.settings)[1]
    name = {"openvino": "KV_CACHE_PRECISION", "onnxruntime": "kv_cache"}[package.backend]
    kind, what = refusal(cache.folder, package.folder, {**package.settings, name: "other"})
    assert (kind, "a KV cache in" in what) == (UsageError, True)
    assert refusal(cache.folder, package.folder, {})[0] is UsageError
    damaged = tmp_path / "state"
    shutil.copytree(cache.folder, damaged, copy_function=shutil.copyfile)
    with (damaged / STATE).open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    kind, what = refusal(damaged, package.folder, package.settings)
    assert (kind, "differs from its digest" in what) == (IntegrityError, True)
    (damaged / "prompt_cache.json").write_text(json.dumps({"schema": 2}))
    assert refusal(damaged, package.folder, package.settings)[0] is IntegrityError
    monkeypatch.setattr(validate.prompt_cache, "installed", lambda name: "0.1")
    kind, what = refusal(cache.folder, package.folder, package.settings)
    assert (kind, "and here is 0.1" in what) == (DeviceMissing, True)


def test_a_runtime_that_takes_no_state_is_refused(tiny_packages: Packages, tmp_path: Path) -> None:
    package = with_template(tiny_packages["llama", "w8-sym", "openvino"], tmp_path / "package")
    with pytest.raises(UsageError, match="qnn"):
        make_prompt_cache(replace(package, backend="qnn"), SYSTEM, tmp_path)


def test_a_prefix_is_a_system_prompt_or_that_and_tools(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Be brief.\n")
    assert read_prefix(tmp_path / "a.txt") == Prefix("Be brief.\n")
    (tmp_path / "a.json").write_text('{"system": "Be brief.", "tools": [{"function": {"name": "end_route"}}]}')
    found = read_prefix(tmp_path / "a.json")
    assert (found.system, len(found.tools)) == ("Be brief.", 1)
    assert found.digest != SYSTEM.digest
    for name, text in {
        "b.json": '{"tools": []}',
        "c.json": '{"system": "x", "tool": []}',
        "d.txt": "",
        "e.json": "[",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputRefused):
            read_prefix(tmp_path / name)


@pytest.mark.parametrize(
    ("template", "prefix", "word"),
    [
        (TEMPLATE, Prefix("x", ({"function": {"name": "end_route"}},)), "leaves out 'end_route'"),
        ("{{ messages[1]['content'] }}", SYSTEM, "leaves out 'Be brief.'"),
        ("{{ messages[0]['content'] }}", SYSTEM, "leaves out the user"),
        (TEMPLATE, Prefix("word " * 64), "context"),
    ],
)
def test_a_prefix_that_the_model_cannot_take_is_refused(
    tiny_packages: Packages, tmp_path: Path, template: str, prefix: Prefix, word: str
) -> None:
    package = with_template(tiny_packages["llama", "w8-sym", "openvino"], tmp_path / "package", template)
    with pytest.raises(InputRefused, match=word):
        prefix_tokens(package.folder, prefix, package.facts.max_positions)


def test_no_word_of_the_user_changes_the_tokens_of_the_prefix(package: Package, cache: PromptCache) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package.folder / "tokenizer.json"))
    for user in ("wärmer", "12", " ", "?", "\n\n", "<user>", "Zz"):
        messages = [{"role": "system", "content": SYSTEM.system}, {"role": "user", "content": user}]
        text = render_messages(package.folder, messages)
        assert text is not None
        assert cache.rest(tokenizer.encode(text, add_special_tokens=False).ids)
