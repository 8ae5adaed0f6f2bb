"""The chain of digests and the claims on a machine, without a build."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.digest import list_files
from tapeout.chain import CHAIN, check_chain
from tapeout.claims import hold_claims, pci_devices
from tapeout.wheels import came_along, installed_wheels
from targets.probe import Host
from tests.tiny_bundle import CLAIM, write_bundle


@pytest.fixture
def chain(tmp_path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A chain and the files it ends at."""
    folder = write_bundle(tmp_path / "bundle")
    return json.loads((folder / CHAIN).read_text()), list_files(folder)


def test_a_whole_chain_has_a_transcript_and_no_findings(chain: tuple[dict[str, Any], dict[str, str]]) -> None:
    checked = check_chain(*chain)
    assert checked.findings == ()
    assert checked.transcript[0].startswith("import: kind=gguf name=tiny sha256=5555")
    assert checked.transcript[-1].startswith("packages/cpu-openvino/ holds the 2 files of ")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another source": (lambda c: c["links"][0]["parameters"]["source"].update(sha256="7" * 64), "the key of import"),
    "other files": (lambda c: c["links"][0]["files"].update(a="7" * 64), "that no earlier link made"),
    "another value": (lambda c: c["links"][0]["value"].update(n=2), "that no earlier link made"),
    "another tool": (lambda c: c["links"][1]["tools"].update(numpy="2"), "the key of compile"),
    "another code": (lambda c: c["links"][1].update(version="v2"), "the key of compile"),
    "a link less": (lambda c: c["links"].pop(0), "that no earlier link made"),
    "an end without a link": (lambda c: c["ends"].update(golden="8" * 64), "no link made golden"),
    "other package files": (lambda c: c["links"][1]["files"].pop("tokenizer.json"), "does not hold the files"),
    "a part less": (lambda c: c["links"][0].pop("tools"), "has not the parts"),
    "an input that is no digest": (lambda c: c["links"][1]["inputs"].update(model="x"), "has not the parts"),
    "an end that is no key": (lambda c: c["ends"].update(golden=[1]), "is not a chain"),
    "no links": (lambda c: c.update(links=None), "is not a chain"),
    "a newer schema": (lambda c: c.update(schema_version=9), "is not a chain"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_broken_chain_is_found(name: str, chain: tuple[dict[str, Any], dict[str, str]]) -> None:
    change, said = CHANGES[name]
    change(chain[0])
    assert said in "; ".join(check_chain(*chain).findings)


def host(**changes: Any) -> Host:
    """A machine of the ordinary kind."""
    known: dict[str, Any] = dict.fromkeys(Host.__slots__)
    known |= {"architecture": "x86-64", "instruction_sets": ("avx2",), "glibc": "2.35", "os": "Linux"}
    return Host(**(known | changes))


def held(claim: dict[str, Any], machine: Host, pci: frozenset[str] = frozenset()) -> dict[str, bool | None]:
    """Whether each claim holds."""
    return {each.claim: each.holds for each in hold_claims({"packages/x": {**CLAIM, **claim}}, machine, pci)}


def test_a_cpu_package_asks_for_architecture_instructions_and_c_library() -> None:
    claim = {"architecture": "x86-64", "instruction_sets": ["avx2"], "glibc": "2.28", "runtimes": {"numpy": "0.1"}}
    good, bad = host(), host(architecture="arm64", instruction_sets=(), glibc="2.9")
    names = ["a CPU of x86-64", "instruction set avx2", "glibc 2.28 or newer"]
    assert [held(claim, good)[name] for name in names] == [True, True, True]
    assert [held(claim, bad)[name] for name in names] == [False, False, False]
    assert held(claim, host(glibc=None))["glibc 2.28 or newer"] is None
    assert held(claim, good)["numpy 0.1"] is False


def test_an_npu_is_told_by_its_place_on_the_bus() -> None:
    lunar = {"kind": "npu", "generation": "4000", "requires": {"platform": "4000"}}
    assert held(lunar, host(), frozenset({"8086:643e"}))["npu 4000"] is True
    assert held(lunar, host(), frozenset({"8086:7d1d"}))["npu 4000"] is False
    strix = {"kind": "npu", "generation": "XDNA2", "requires": {"pci_id": "1022:17F0"}}
    assert held(strix, host(), frozenset({"1022:17f0"}))["npu XDNA2"] is True
    assert held(strix, host(), frozenset({"1022:1502"}))["npu XDNA2"] is False
    assert held({"kind": "igpu", "generation": "Arc"}, host())["igpu Arc"] is None


def test_the_bus_is_read_from_sys(tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:00:0b.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0x643e\n")
    assert pci_devices(tmp_path) == {"8086:643e"}


def test_a_wheel_is_known_by_what_came_in_it() -> None:
    (numpy,) = installed_wheels(["numpy", "no-such-distribution"])
    assert (numpy.purl, len(numpy.contents or "")) == (f"pkg:pypi/numpy@{numpy.version}", 64)
    assert "BSD-3-Clause" in (numpy.licence or "")
    assert came_along("numpy/core.py")
    for path in ("../../bin/f2py", "numpy/__pycache__/x.pyc", "numpy-1.dist-info/INSTALLER", "x.dist-info/RECORD"):
        assert not came_along(path)
