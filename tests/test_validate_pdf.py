import importlib.util
import os
import re
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tapeout.cli import main
from targets.errors import DeviceMissing, UsageError
from tests.sample_report import failing_report, poisoned, sample_report
from validate.render_pdf import render_pdf
from validate.report import to_json

INSTALLED = importlib.util.find_spec("weasyprint") is not None


def require_weasyprint() -> None:
    if not INSTALLED and not os.environ.get("CI"):
        pytest.skip("WeasyPrint is not installed: pip install '.[pdf]'")


def pages(content: bytes) -> int:
    streams = re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL)
    text = content + b"".join(inflate(stream) for stream in streams)
    return len(re.findall(rb"/Type\s*/Page\b", text))


def inflate(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)
    except zlib.error:
        return b""


def test_a_report_becomes_the_same_pdf_twice() -> None:
    require_weasyprint()
    content = render_pdf(sample_report())
    assert content.startswith(b"%PDF-")
    assert 5 < pages(content) < 40
    assert content == render_pdf(sample_report())


def test_hostile_text_fetches_nothing_and_breaks_nothing() -> None:
    require_weasyprint()
    assert pages(render_pdf(poisoned(failing_report()))) > 5


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "weasyprint" else find_spec(name))
    with pytest.raises(DeviceMissing, match="WeasyPrint") as caught:
        render_pdf(sample_report())
    assert ".[pdf]" in caught.value.help


def test_the_command_writes_a_file_and_asks_for_its_name(tmp_path: Path) -> None:
    require_weasyprint()
    (tmp_path / "report.json").write_text(to_json(sample_report()), encoding="utf-8")
    command = ["report", str(tmp_path), "--format", "pdf"]
    asked = CliRunner().invoke(main, command)
    assert isinstance(asked.exception, UsageError)
    assert "--out" in asked.exception.help
    out = tmp_path / "report.pdf"
    assert CliRunner().invoke(main, [*command, "--out", str(out)]).exit_code == 0
    assert out.read_bytes().startswith(b"%PDF-")
