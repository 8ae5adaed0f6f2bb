"""The version of a stage's code covers every module that Python's own parser finds."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeout.code_version import PACKAGES, ROOT, code_version, read_module, source_of

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def parsed(path: Path) -> Iterator[str]:
    """What a module imports or names as a string, by its syntax tree."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES and name.replace(".", "").isidentifier() and source_of(name) is not None


def test_the_text_names_every_module_that_the_syntax_tree_names() -> None:
    for path in SOURCES:
        expected = set(filter(is_ours, parsed(path)))
        assert expected <= set(read_module(path)[1]), path


@pytest.mark.parametrize(
    "source",
    [
        "from targets.errors import UsageError\n",
        "def f():\n    from targets.errors import (\n        UsageError,\n    )\n",
        "from targets import (\n    names,\n    errors as e,\n)\n",
        'TABLE = {"a": ("targets.errors", "UsageError")}\n',
    ],
)
def test_each_form_of_an_import_is_found(source: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source, encoding="utf-8")
    assert "targets.errors" in read_module(tmp_path / "module.py")[1]


def test_a_module_reached_through_others_changes_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_version.__wrapped__(("validate.measure",))
    changed = {path: read_module(path) for path in SOURCES}
    errors = ROOT / "targets" / "errors.py"
    changed[errors] = ("0" * 64, changed[errors][1])
    monkeypatch.setattr("tapeout.code_version.read_module", changed.__getitem__)
    assert code_version.__wrapped__(("validate.measure",)) != before
