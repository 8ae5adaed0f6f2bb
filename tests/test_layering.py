"""Where code may stand: the import chain, the shape of a package, and how long a file or a function may get."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAIN = ("targets", "export", "quantize", "compile", "validate", "tapeout")
SOURCES = sorted(path for package in CHAIN for path in (ROOT / package).rglob("*.py"))
NAMELESS = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def wrong_imports(package: str, module: ast.Module) -> Iterator[str]:
    """Every import in `module` that a file of `package` may not have, with the reason."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: relative import"
        elif isinstance(node, ast.ImportFrom):
            found = (node.module or "").partition(".")[0]
            if found == "tests" or found in CHAIN[CHAIN.index(package) + 1 :]:
                yield f"line {node.lineno}: {package} may not import {found}"
        elif isinstance(node, ast.Import):
            # `import compile.package` would hide the builtin; the other five have everyday names too.
            for name in {alias.name.partition(".")[0] for alias in node.names} & {*CHAIN, "tests"}:
                yield f"line {node.lineno}: write `from {name}... import ...`"


def too_long(module: ast.Module, lines: int) -> Iterator[str]:
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {length} lines"


def test_packages_import_only_from_those_to_their_left() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} {reason}"
        for path in SOURCES
        for reason in wrong_imports(path.relative_to(ROOT).parts[0], tree(path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("targets", "from export.digest import digest_file"),
        ("compile", "def f():\n    from validate.report import Report"),
        ("tapeout", "import compile.package"),
        ("tapeout", "import validate as v"),
        ("tapeout", "from . import store"),
        ("export", "from tests.tiny_folder import load_model"),
    ],
)
def test_a_planted_import_is_found(package: str, line: str) -> None:
    assert len(list(wrong_imports(package, ast.parse(line)))) == 1


@pytest.mark.parametrize("package", CHAIN)
def test_init_holds_a_docstring_and_nothing_else(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        module = tree(path)
        assert len(module.body) == 1, path
        assert ast.get_docstring(module), path


def test_no_package_of_ours_stands_below_tests() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_a_file_is_named_after_what_it_is_about() -> None:
    assert not [path for path in SOURCES if path.name in NAMELESS]


def test_files_and_functions_stay_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {reason}"
        for path in SOURCES
        for reason in too_long(tree(path), len(path.read_text(encoding="utf-8").splitlines()))
    ]
    assert not long, "\n".join(long)


def test_a_long_file_and_a_long_function_are_found() -> None:
    module = ast.parse("def f():\n" + "    pass\n" * MAX_FUNCTION_LINES)
    assert len(list(too_long(module, MAX_FILE_LINES + 1))) == 2
    assert not list(too_long(ast.parse("def f():\n    pass"), MAX_FILE_LINES))
