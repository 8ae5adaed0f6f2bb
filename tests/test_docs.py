"""README.md, the Makefile and CONTRIBUTING.md against the code. A failure prints the lines to paste."""

import ast
import itertools
import re
from pathlib import Path

import click
import pytest

from export.catalog import CATALOG, default_model
from quantize.scheme import known_schemes
from targets import errors
from targets.status import Status, Verdict
from targets.target import Runtime, list_targets, load_target
from validate.report_schema import PUBLISHED, published_text

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = ("targets", "export", "quantize", "compile", "validate", "tapeout")
# 0 and 1 are verdicts, 10 is --strict, the last two are signals.
CODES_WITHOUT_ERROR = {0, 1, 10, 130, 143}


def between(name: str) -> list[str]:
    """The lines of README.md between the markers `name`."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.DOTALL)
    assert found, f"README.md has lost its markers of {name}"
    return found[1].splitlines()


def rows(header: str) -> list[list[str]]:
    """The cells of the README table whose first row starts with `header`."""
    lines = README[README.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def target_table() -> list[str]:
    """One row for all runtimes of a device that get equally far with the same schemes."""
    lines = ["| target | device | runtimes | schemes | how far this release goes |", "|---|---|---|---|---|"]
    for name in list_targets():
        for device in load_target(name).devices:
            which = f"{name} | {device.name}: {device.vendor} {device.generation}"
            for outcome, group in itertools.groupby(device.runtimes, key=how_far):
                lines.append(f"| {which} | {', '.join(runtime.backend for runtime in group)} | {outcome} |")
    return lines


def how_far(runtime: Runtime) -> str:
    """The schemes of a runtime and what becomes of them, as two cells."""
    return f"{', '.join(runtime.schemes)} | {runtime.status or f'INCOMPLETE: {runtime.missing}'}"


def real_tree() -> dict[str, str]:
    """Every module of the six packages with the first paragraph of its docstring."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    summaries = {}
    for path in paths:
        if path.name != "__init__.py":
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            summaries[str(path.relative_to(ROOT))] = " ".join(docstring.partition("\n\n")[0].split())
    return summaries


def readme_tree() -> dict[str, str]:
    """Every file that the README tree lists, with its comment."""
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in between("tree"):
        match = re.fullmatch(r"( *)(\S+)(?: +(\S.*))?", line)
        if match and not line.startswith("```"):
            folders = [*folders[: len(match[1]) // 2], match[2]]
            found["".join(folders)] = match[3] or ""
    return found


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert PUBLISHED.is_file(), f"make it: tapeout schema > {PUBLISHED.relative_to(ROOT)}"
    assert PUBLISHED.read_text(encoding="utf-8") == published_text(), (
        f"the report's layout changed: .venv/bin/tapeout schema > {PUBLISHED.relative_to(ROOT)}"
    )


def test_target_table_is_what_the_target_files_say() -> None:
    expected = target_table()
    assert between("targets") == expected, "replace the table of README.md by\n" + "\n".join(expected)


def test_tree_lists_every_module_with_a_comment() -> None:
    listed, real = readme_tree(), real_tree()
    missing = [f"  {path.partition('/')[2]:<26}{real[path]}      <- {path}" for path in real if path not in listed]
    extra = [
        path for path in listed if path.endswith(".py") and path.partition("/")[0] in PACKAGES and path not in real
    ]
    bare = [path for path, comment in listed.items() if not comment]
    gone = [path for path in listed if not (ROOT / path).exists()]
    message = ["add to the tree of README.md:", *missing, "remove:", *extra, *gone, "say what it is:", *bare]
    assert not [*missing, *extra, *bare, *gone], "\n".join(message)
    assert [path for path in listed if path in real] == list(real), "the tree is not in the order of the folders"


def test_exit_codes_are_those_of_the_errors() -> None:
    documented = {int(code): error.strip("`") for codes, _, error in rows("exit code") for code in codes.split(",")}
    classes = {error.exit_code: error.__name__ for error in errors.TapeoutError.__subclasses__()}
    assert documented == classes | dict.fromkeys(CODES_WITHOUT_ERROR, "")


def test_the_vocabulary_is_the_one_of_the_code() -> None:
    assert [status.strip("`") for status, _ in rows("status")] == list(Status)
    assert [verdict.strip("`") for verdict, _, _ in rows("verdict")] == list(Verdict)


def test_every_scheme_named_is_one() -> None:
    named = set(re.findall(r"\bw\d-[a-z]+(?:-(?:g\d+|cw))?", README + CONTRIBUTING))
    assert {"w4-sym-g64", "w8-asym"} <= named <= set(known_schemes())


def test_models_of_the_catalog_are_listed_and_the_default_is_one() -> None:
    sources = {source.strip("`") for source, _ in rows("`--model` (`model=` with make)")}
    assert set(CATALOG) <= sources
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\nmodel := {default_model()}\n" in makefile


def test_commands_are_those_of_the_command_line() -> None:
    from tapeout.cli import main

    store = main.commands["store"]
    assert isinstance(store, click.Group)
    real = {*main.commands, *(f"store {name}" for name in store.commands)} - {"store"}
    documented = {" ".join(re.findall(r"\b[a-z]+\b", command)[1:]) for command, _ in rows("command")}
    assert documented == real


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_make_target_named_exists(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)\b(?!=)", text, re.MULTILINE))
    assert "test" in named
    assert named <= targets
