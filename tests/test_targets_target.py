import copy
import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import UsageError
from targets.legality import check, parse_scheme
from targets.status import Status
from targets.target import DATA, SCHEMA, Target, list_targets, load_target, parse_target

SHIPPED = ("core-ultra", "cpu", "null", "ryzen", "ryzen-cockpit", "snapdragon-x", "snapdragon-x2")
RYZEN: dict[str, Any] = tomllib.loads((DATA / "ryzen.toml").read_text())


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    """The ryzen document with the entry at `path` set to `value`."""
    document = copy.deepcopy(RYZEN)
    place: Any = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return document


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as refused:
        parse_target(document, "here.toml")
    return refused.value.what


def test_the_shipped_targets_are_these() -> None:
    assert list_targets() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_target_loads_under_its_own_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.gates) == {"int4", "int8"}
    assert target.gates["int8"].kl_mean_max < target.gates["int4"].kl_mean_max


@pytest.mark.parametrize("name", SHIPPED)
def test_every_ladder_is_legal_and_climbs(name: str) -> None:
    for device in load_target(name).devices:
        for runtime in device.runtimes:
            plain = [parse_scheme(scheme) for scheme in runtime.schemes]
            for scheme in plain:
                check(*scheme, runtime.legality)
            sizes = [bits + 16 / group if group > 0 else bits for bits, _, group in plain]
            assert sizes == sorted(sizes), (device.name, runtime.backend)


@pytest.mark.parametrize("name", SHIPPED)
def test_runtimes_of_one_device_share_their_ladder(name: str) -> None:
    for device in load_target(name).devices:
        assert len({runtime.schemes for runtime in device.runtimes}) == 1, device.name


def test_the_limits_of_the_product_are_in_every_precision_class() -> None:
    target = load_target("ryzen")
    assert target.limits.package_mb_max is not None
    for gates in target.gates.values():
        assert gates.ttft_ms_max == target.limits.ttft_ms_max
        assert gates.package_mb_max == target.limits.package_mb_max


def test_a_precision_class_may_set_its_own_limit() -> None:
    target = parse_target(changed("gates", "int4", "package_mb_max", value=100), "here.toml")
    assert target.gates["int4"].package_mb_max == 100
    assert target.gates["int8"].package_mb_max == target.limits.package_mb_max


def test_devices_without_a_back_end_say_so() -> None:
    cpu, igpu, npu = load_target("snapdragon-x").devices
    assert all(runtime.missing and runtime.next_step and runtime.status is None for runtime in cpu.runtimes)
    assert [device.runtimes[0].status for device in (igpu, npu)] == [Status.EMULATED, Status.SIMULATED]


def test_what_is_claimed_of_a_device_is_what_this_release_does_without_it() -> None:
    cpu, igpu, npu = load_target("ryzen").devices
    assert [runtime.status for runtime in cpu.runtimes] == [Status.HOST_MEASURED] * 2
    assert [device.runtimes[0].status for device in (igpu, npu)] == [Status.EMULATED, Status.PREPARED]
    platforms = [device.runtimes[0].options for device in load_target("core-ultra").devices if device.kind == "npu"]
    assert platforms == [{"npu_platform": platform} for platform in ("3720", "4000", "5010")]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        (("prompt_lenghts",), "prompt_lengths"),
        (("limits", "ttft_max_ms"), "ttft_ms_max"),
        (("gates", "int8", "kl_max_mean"), "kl_mean_max"),
        (("devices", 0, "vender"), "vendor"),
        (("devices", 1, "runtimes", 0, "nextstep"), "next_step"),
    ],
)
def test_an_unknown_key_is_answered_with_its_path_and_the_nearest(path: tuple[str | int, ...], nearest: str) -> None:
    place = ".".join(map(str, path))
    assert f"{place}: unknown key; did you mean '{nearest}'?" in refusal(changed(*path, value=1))


def test_an_unknown_key_like_none_lists_what_there_is() -> None:
    assert "limits.zzz: unknown key; known: ttft_ms_max, " in refusal(changed("limits", "zzz", value=1))


def test_every_wrong_entry_is_listed() -> None:
    document = changed("devices", 0, "kind", value="gpu")
    document["limits"]["load_s_max"] = "10"
    document["gates"]["int4"]["top1_min"] = 85.0
    del document["product"]
    lines = refusal(document).splitlines()
    assert lines[0] == "here.toml has 4 wrong entries:"
    for start in ("devices.0.kind: ", "limits.load_s_max: ", "gates.int4: top1_min = 85.0", "product: this key is req"):
        assert any(line.strip().startswith(start) for line in lines), (start, lines)


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("name",), "../escape", "cannot name a folder"),
        (("name",), "ryzen\n", "cannot name a folder"),
        (("devices", 0, "name"), "a/b", "cannot name a folder"),
        (("devices",), [], "devices is empty"),
        (("devices", 1, "name"), "cpu", "cpu more than once"),
        (("devices", 0, "runtimes"), [], "runtimes is empty"),
        (("devices", 0, "runtimes", 1, "backend"), "openvino", "openvino more than once"),
        (("devices", 0, "instruction_sets"), ["avx512vnni"], "did you mean 'avx512_vnni'"),
        (("devices", 0, "runtimes", 0, "schemes"), [], "schemes is empty"),
        (("devices", 0, "runtimes", 0, "schemes"), ["w8-sym", "w8-sym"], "w8-sym more than once"),
        (("devices", 0, "runtimes", 0, "schemes"), ["int4"], "not the name of a scheme"),
        (("devices", 2, "runtimes", 0, "schemes"), ["w4-sym-g128"], "nearest legal scheme is 'w4-asym-g128'"),
        (("devices", 2, "runtimes", 0, "legality"), "amd-npu-xdna1", "no language model"),
        (("devices", 2, "runtimes", 0, "legality"), "amd-xdna2", "did you mean 'amd-npu-xdna2'"),
        (("devices", 0, "runtimes", 0, "missing"), "reason", "either a status, or missing"),
        (("devices", 0, "runtimes", 0, "status"), "mesured", "status: "),
        (("devices", 2, "runtimes", 0, "missing"), "", "either a status, or missing"),
        (("devices", 0, "runtimes", 0, "missing"), "", "either a status, or missing"),
        (("devices", 2, "runtimes", 0, "next_step"), "Wait.", "either a status, or missing"),
        (("gates",), {"int8": RYZEN["gates"]["int8"]}, "there is no [gates.int4]"),
        (("gates", "int16"), RYZEN["gates"]["int8"], "unknown precision class 'int16'"),
        (("prompt_lengths",), [128, 32], "not an ascending list"),
        (("prompt_lengths",), [], "not an ascending list"),
        (("prompt_lengths",), [0, 32, 128, 512, 1024], "not an ascending list"),
        (("limits", "ttft_ms_max"), {"2048": 900}, "[2048] that are not measured"),
        (("limits", "ttft_ms_max"), {"short": 100}, "limits.ttft_ms_max.short"),
        (("limits", "load_s_max"), float("nan"), "load_s_max = nan"),
        (("limits", "load_s_max"), True, "limits.load_s_max: "),
    ],
)
def test_contents_that_contradict_are_refused(path: tuple[str | int, ...], value: Any, part: str) -> None:
    assert part in refusal(changed(*path, value=value))


@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None])
def test_another_schema_is_refused_before_anything_else(version: object) -> None:
    assert refusal({"schema": version, "nonsense": 1}).startswith(f"here.toml: schema is {version!r}, not {SCHEMA}")


def test_a_file_without_schema_is_refused() -> None:
    assert "schema is None" in refusal({key: value for key, value in RYZEN.items() if key != "schema"})


@pytest.mark.parametrize(
    ("name", "meant"), [("rizen", "ryzen"), ("coreultra", "core-ultra"), ("snapdragon", "snapdragon-x")]
)
def test_an_unknown_target_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_target(name)
    assert f"did you mean '{meant}'?" in refused.value.help


@pytest.mark.parametrize("name", ["", "../targets/data/cpu", "data/cpu", "CPU.TOML", "cpu\0"])
def test_a_name_reaches_no_file_but_its_own(name: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        load_target(name)


def test_a_users_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.toml"
    path.write_text((DATA / "cpu.toml").read_text().replace('name = "cpu"', 'name = "dashboard"', 1))
    assert load_target(str(path)).name == "dashboard"


@pytest.mark.parametrize(
    "contents",
    [b"schema = ", b"\xff\xfe", b"schema = 1\nschema = 1", b"x = " + b"[" * 5000, b"x = " + b"9" * 5000],
    ids=["unfinished", "not utf-8", "doubled key", "too deep", "too long a number"],
)
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(contents)
    with pytest.raises(UsageError, match=r"broken\.toml is not TOML"):
        load_target(str(path))


@pytest.mark.parametrize("name", ["absent.toml", "folder.toml"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UsageError, match="cannot read target file"):
        load_target(str(tmp_path / name))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.just(10**400)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
PLACES = st.sampled_from(
    [
        *((key,) for key in RYZEN),
        *(("limits", key) for key in RYZEN["limits"]),
        *(("gates", "int4", key) for key in RYZEN["gates"]["int4"]),
        *(("devices", 0, key) for key in RYZEN["devices"][0]),
        *(("devices", 0, "runtimes", 0, key) for key in RYZEN["devices"][0]["runtimes"][0]),
    ]
)


@given(st.dictionaries(st.sampled_from(sorted(RYZEN)) | st.text(max_size=8), VALUES, max_size=5))
def test_arbitrary_contents_end_in_a_typed_error(document: dict[str, Any]) -> None:
    refusal({**document, "schema": SCHEMA})


@given(PLACES, VALUES)
def test_any_value_anywhere_gives_a_target_or_a_typed_error(path: tuple[str | int, ...], value: Any) -> None:
    try:
        target = parse_target(changed(*path, value=value), "here.toml")
    except UsageError:
        return
    assert target == Target(**{field.name: getattr(target, field.name) for field in dataclasses.fields(target)})


def test_the_package_imports_only_the_standard_library() -> None:
    program = (
        "import sys, targets.gates, targets.legality, targets.probe, targets.status, targets.target;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=DATA.parents[1], check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "['__main__', 'targets']"
