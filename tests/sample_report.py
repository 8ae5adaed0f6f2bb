"""A hand-made report like the ones `ryzen` gets: figures of the size measured on a real machine, no two runs needed."""

import dataclasses
import random
from dataclasses import replace
from enum import Enum
from functools import cache
from statistics import median
from typing import Any

from targets.sensors import SensorReading
from targets.status import Status, Verdict, combine
from targets.target import load_target
from validate.bandwidth import Bandwidth
from validate.experience import Felt
from validate.judge import judge
from validate.kv_cache import CachePrecision, KvCache
from validate.measurement import Answer, Fidelity, Latency, Loading, Placement, Sampled
from validate.package_measurement import Measurement
from validate.paired import compare_paired
from validate.parity import TokenizerParity
from validate.percentiles import percentiles
from validate.report import (
    SCHEMA_VERSION,
    Candidate,
    DeviceReport,
    GateResult,
    Report,
    RuntimeReport,
    StageRecord,
)
from validate.roofline import Roofline, point_of
from validate.search_report import BlamedWeight, Expected, PackageDiagnosis, SearchReport, Tried, WeightSensitivity
from validate.stability import Stability
from validate.steadiness import Conditions, Process, Restarts, spread_of
from validate.vehicle_ranking import VehicleRanking

NEW_TOKENS = 16
ANSWER = "The capital of France is Paris. It is on the river Seine."


def sampled(rng: random.Random, centre: float, n: int = 9) -> Sampled:
    samples = tuple(round(centre * rng.gauss(1, 0.02), 4) for _ in range(n))
    ordered = sorted(samples)
    return Sampled(median(samples), ordered[1], ordered[-2], samples)


def latency(seed: int, ttft: dict[int, float], tpot: float) -> tuple[Latency, ...]:
    return tuple(timed(seed, tokens, centre, tpot * (1 + tokens / 4000)) for tokens, centre in ttft.items())


@cache
def timed(seed: int, tokens: int, ttft: float, tpot: float) -> Latency:
    """Nine rounds: enough tokens for the 95th percentile of the times between them, too few requests for any."""
    rng = random.Random(f"{seed} {tokens}")  # noqa: S311 - samples, not secrets
    first = sampled(rng, ttft)
    between = [[round(tpot * rng.lognormvariate(0, 0.06), 4) for _ in range(NEW_TOKENS)] for _ in first.samples]
    return Latency(
        prompt_tokens=tokens,
        new_tokens=NEW_TOKENS,
        ttft_ms=first,
        tpot_ms=sampled(rng, tpot),
        intervals_ms=tuple(time for each in between for time in each),
        ttft_percentiles=percentiles([[time] for time in first.samples]),
        interval_percentiles=percentiles(between),
    )


def restarts(ttft: float, tpot: float) -> Restarts:
    """Three processes, the first with its files out of the page cache; the first request of each takes longer."""
    processes = tuple(
        Process(place == 0, start - 1.1, start, first * ttft, later * ttft, later * tpot)
        for place, (start, first, later) in enumerate(((2.43, 1.9, 1.0), (1.62, 1.5, 0.98), (1.58, 1.52, 1.031)))
    )
    ttft_spread, tpot_spread = (spread_of([getattr(one, name) for one in processes]) for name in ("ttft_ms", "tpot_ms"))
    return Restarts(128, 16, 3, processes, ttft_spread, tpot_spread)


def conditions() -> Conditions:
    """A virtual machine: no governor and no thermal zone, but a clock and a load."""
    return Conditions(
        None, "tsc", SensorReading(clock_mhz=3691.2, load=0.31), SensorReading(clock_mhz=3688.4, load=1.94)
    )


def kv_cache(four: bool) -> KvCache:
    """A cache in u8 beside one of 16 bits."""
    kl = 0.391 if four else 0.0046
    rows = (
        CachePrecision("f16", 23_040, kl, 0.0, ships=False),
        CachePrecision("u8", 12_960, kl + 0.0002, 0.0002, ships=True),
    )
    return KvCache(rows, "f16", 23_040, 1 - 12_960 / 23_040, 1024, 256)


def fidelity(kl: float, top1: float, ratio: float) -> Fidelity:
    return Fidelity(kl, kl * 0.94, kl * 1.07, kl * 7.3, kl * 0.99, kl * 1.02, top1, 14.62 * ratio, ratio, 6120)


def answers(good: bool) -> tuple[Answer, ...]:
    text = ANSWER if good else "The capital of France is Paris. It is the largest city in Europe."
    sum_text = "27 plus 48 is 75." if good else "27 plus 48 is 85."
    return (
        Answer("What is the capital of France?", ANSWER, text, 14 if good else 9, 14, 14 if good else 15),
        Answer("What is 27 plus 48?", "27 plus 48 is 75.", sum_text, 11 if good else 7, 11, 11),
    )


def roofline(times: tuple[Latency, ...], weights: int) -> Roofline:
    """Under the roof of 35 GB/s."""
    bandwidth = Bandwidth(35e9, 31e9, 2, 268_435_456, 40)
    return Roofline(weights, 12_960, bandwidth, tuple(point_of(one, weights, 12_960, bandwidth) for one in times))


def felt(lost: int) -> Felt:
    """The in-vehicle suite, of which a package loses so many requests, and its answers' repetition."""
    items, both = 128, 60
    theirs = [True] * (both + lost) + [False] * (items - both - lost)
    ours = [True] * both + [False] * (items - both)
    paired = compare_paired(theirs, ours, 0.03)
    languages = {"de": (64, 31 + lost, 31), "en": (64, 29, 29)}
    kinds = {"climate": (40, 22, 22), "media": (48, 20 + lost, 20), "navigation": (40, 18, 18)}
    ranking = VehicleRanking(items, 333, 5, 1 - lost / items, paired, paired, kinds, languages, 0.02)
    return Felt(Stability(24, 40, 31.0, 0.5, 0.04, 0.03, 0.9, 0.91, 1.02, (None, 7)), ranking)


def measurement(backend: str, scheme: str, kl: float, top1: float, ratio: float) -> Measurement:
    fast = backend == "openvino"
    four = scheme.startswith("w4")
    prefill = (
        {32: 24.0, 128: 76.0, 512: 309.0, 1024: 688.0} if fast else {32: 47.0, 128: 181.0, 512: 894.0, 1024: 1985.0}
    )
    tpot = (9.1 if four else 11.6) * (1 if fast else 1.08)
    times = latency(len(backend + scheme), {n: ms * (1 if four else 1.3) for n, ms in prefill.items()}, tpot)
    versions = {"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0"} if fast else {"onnxruntime-genai": "0.18.0"}
    return Measurement(
        fidelity={"weights": fidelity(kl, top1, ratio), "deployed": fidelity(kl * 1.012, top1 - 0.001, ratio * 1.0004)},
        answers=answers(good=not four),
        latency=times,
        loading=Loading(1.41 if fast else 0.92, not four, 0.56 if fast else 0.38, (388 if four else 451) * 10**6, 512),
        placements=(
            Placement("model", "CPU", {"CPU": 1284}, {"CPU": 135_644_401})
            if fast
            else Placement("model", "CPUExecutionProvider", {"CPUExecutionProvider": 612}, {"CPUExecutionProvider": 0}),
        ),
        ran=Status.HOST_MEASURED,
        parity=TokenizerParity({"digits": 40, "unicode": 60}, 24, 4, {}, 14, 0, ()),
        chat=("What is the capital of France?", ANSWER),
        felt=felt(lost=4 if four else 1),
        threads=2,
        environment=versions,
        host={
            "architecture": "x86-64",
            "cpu_model": "AMD EPYC 9R14",
            "cores_physical": 2,
            "cores_logical": 2,
            "memory_bytes": 25769803776,
            "instruction_sets": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
            "governor": None,
            "kernel": "6.18.1",
            "temperature_c": None,
        },
        drift=1.04,
        conditions=conditions(),
        kv_cache=kv_cache(four) if fast else None,
        restarts=restarts(times[1].ttft_ms.median, tpot),
        roofline=roofline(times, 95_003_904 if four else 135_644_401) if fast else None,
    )


def gates(precision: str, size: int, measured: Measurement) -> tuple[GateResult, ...]:
    other = measured.fidelity["weights"].kl_mean + 0.0004
    return judge(measured, size, load_target("ryzen").gates[precision], other)


def candidate(backend: str, scheme: str) -> Candidate:
    four = scheme.startswith("w4")
    measured = measurement(backend, scheme, *((0.386, 0.661, 1.392) if four else (0.0043, 0.954, 1.0031)))
    size, precision = (86_412_338, "int4") if four else (143_907_112, "int8")
    results = gates(precision, size, measured)
    return Candidate(
        backend=backend,
        scheme=scheme,
        precision=precision,
        verdict=combine(gate.verdict for gate in results),
        ships=not four,
        carried=not four,
        why="does not ship: weights.kl_mean is 0.386 nats, at most 0.1 is allowed, and 5 more gates failed"
        if four
        else "ships: passes every gate, w4-sym-g64 does not",
        package_bytes=size,
        package_digest=("9f2c" if four else "41ab") * 16,
        weights_digest=("7d10" if four else "c83e") * 16,
        checks={"attentions_fused": 30, "weights_compressed": 211, "norms_fused": 61},
        settings={"ATTENTION_BACKEND": "SDPA"} if backend == "openvino" else {"intra_op_num_threads": 2},
        evidence=(Status.HOST_MEASURED,),
        requires={},
        measurement=measured,
        gates=results,
    )


def cpu() -> DeviceReport:
    runtimes = tuple(
        RuntimeReport(
            backend=backend,
            status=Status.HOST_MEASURED,
            verdict=Verdict.PASS,
            reason="ships: passes every gate, w4-sym-g64 does not",
            next_step="Run tapeout validate on a Ryzen AI 300 unit to replace the indicative latency.",
            candidates=(candidate(backend, "w4-sym-g64"), candidate(backend, "w8-asym")),
            folder=f"packages/cpu-{backend}",
        )
        for backend in ("openvino", "onnxruntime")
    )
    return DeviceReport(
        "cpu", "cpu", "AMD", "Zen 5", Verdict.PASS, "Both runtimes have a package that passes every gate.", runtimes
    )


def unbuilt(name: str, generation: str, backend: str, reason: str, step: str) -> DeviceReport:
    runtime = RuntimeReport(backend, None, Verdict.INCOMPLETE, reason, step, (), None)
    return DeviceReport(name, name, "AMD", generation, Verdict.INCOMPLETE, reason, (runtime,))


def stages() -> tuple[StageRecord, ...]:
    tools = {"onnx": "1.23.2", "torch": "2.13.0"}
    times = {"import": 3.2, "export": 41.7, "quantize w8-asym": 12.6, "compile openvino w8-asym": 19.3, "golden": 188.4}
    return tuple(
        StageRecord(
            name, f"{place + 1:064x}", f"{place + 81:064x}", taken, (700 + 310 * place) * 10**6, place < 2, tools
        )
        for place, (name, taken) in enumerate(times.items())
    )


def devices() -> tuple[DeviceReport, ...]:
    return (
        cpu(),
        unbuilt(
            "igpu",
            "RDNA 3.5 (Radeon 890M)",
            "onnxruntime-webgpu",
            "This release has no ONNX Runtime WebGPU back end.",
            "Add the back end on onnxruntime-ep-webgpu, then measure on a Radeon 890M.",
        ),
        unbuilt(
            "npu",
            "XDNA2",
            "ryzen-ai",
            "This release makes no Ryzen AI hand-off; AMD's NPU compiler is in no public package.",
            "Add the hand-off, then run model_generate on Windows with AMD's installer.",
        ),
    )


def sample_report() -> Report:
    return Report(
        schema_version=SCHEMA_VERSION,
        target="ryzen",
        product="AMD Ryzen AI 300 class laptop or infotainment unit: Zen 5 CPU, Radeon 890M iGPU, XDNA2 NPU.",
        model={
            "name": "smollm2-135m",
            "architecture": "llama",
            "parameters": 134515008,
            "n_layers": 30,
            "max_positions": 8192,
            "tied_embeddings": True,
            "licence": "Apache-2.0",
            "source": {"kind": "gguf", "name": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "5be9" * 16},
            "quantized_source": "Q4_1",
        },
        verdict=Verdict.INCOMPLETE,
        headline="The CPU is ready; the iGPU and the NPU have no package, so nothing can be said of them.",
        devices=devices(),
        assumptions=(
            "The limits are what a spoken or typed assistant needs; no customer has set them yet.",
            "The CPU is measured on the building host: its fidelity is real, its latency indicative.",
        ),
        golden={
            "windows": 24,
            "window_tokens": 256,
            "positions": 6120,
            "float_perplexity": 14.6217,
            "sha256": "e07a" * 16,
        },
        parity={"prefill": 2.1e-5, "decode": [1.9e-5, 2.4e-5, 2.2e-5], "logits_scale": 31.4},
        stages=stages(),
        searches=(
            SearchReport(
                device="cpu",
                goal_kl=0.1,
                candidates=31,
                tried=(
                    tried(
                        "w4-asym-g64+gptq", 87_100_000, 0.108, None, "weights.top1 is 0.83, at least 0.85 is allowed"
                    ),
                    tried("w4-sym-g32", 95_000_000, 0.24, 9.9, "weights.kl_mean is 0.24 nats, at most 0.1 is allowed"),
                    Tried("w4-asym-g64+keep10+gptq", 92_800_000, 0.071, 9.6, passed=True, on_front=True, seconds=431.0),
                    tried("w4-sym-g256+gptq", 84_000_000, None, None, "StageFailed: no Hessian"),
                ),
                chosen="w4-asym-g64+keep10+gptq",
                stopped="no recipe that is left is expected to be smaller and pass",
            ),
        ),
        sensitivity=tuple(
            WeightSensitivity(f"model.layers.{layer}.{name}.weight", layer, name, 1e-4 * (layer % 7) + 2e-4 * place)
            for layer in range(30)
            for place, name in enumerate(("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"))
        ),
        layer_costs=tuple(0.001 * (layer % 7) for layer in range(30)),
        tapeout="0.1.0",
        created="2026-11-21T21:37:00+00:00",
    )


def tried(recipe: str, size: int, kl: float | None, tpot_ms: float | None, reason: str) -> Tried:
    """A recipe that failed."""
    return Tried(recipe, size, kl, tpot_ms, passed=False, on_front=kl == 0.108, seconds=61.0, reason=reason)


def failed_search(report: Report) -> SearchReport:
    """The same search when nothing passed and a byte budget kept out what would have."""
    found = report.searches[0]
    return replace(
        found,
        tried=tuple(one for one in found.tried if not one.passed),
        chosen=None,
        stopped="no recipe that is left is expected to be smaller and pass",
        nearest="w4-asym-g64+gptq",
        guilty=tuple(cost for cost in report.sensitivity if cost.layer == 6)[1::-1],
        would_pass=Expected("w4-asym-g64+keep10+gptq", 92_800_000, 0.0712),
        weight_bytes_max=90_000_000,
    )


def failing_report() -> Report:
    """The same product when every package of one runtime fails and one figure of it was not measured."""
    report = sample_report()
    device = report.devices[0]
    refused = candidate("onnxruntime", "w4-sym-g64")
    unmeasured = replace(
        refused.measurement, loading=None, placements=(), drift=None, parity=None, chat=None, restarts=None
    )
    refused = replace(refused, measurement=unmeasured, gates=gates("int4", refused.package_bytes, unmeasured))
    runtime = replace(
        device.runtimes[1],
        verdict=Verdict.FAIL,
        reason="No scheme reaches the gates.",
        next_step="Allow w8-asym in the target.",
        candidates=(refused,),
        folder=None,
    )
    broken = replace(
        device,
        verdict=Verdict.FAIL,
        reason="ONNX Runtime has no package that passes.",
        runtimes=(device.runtimes[0], runtime),
    )
    blamed = PackageDiagnosis(
        device="cpu",
        backend="onnxruntime",
        recipe="w4-sym-g64",
        positions=256,
        kl=2.31,
        broken=("model.layers.4.mlp.down_proj.weight",),
        weights=(
            BlamedWeight("model.layers.4.mlp.down_proj.weight", 7.0, 0.384),
            BlamedWeight("model.layers.0.self_attn.v_proj.weight", 0.31, 2.29),
        ),
    )
    return replace(
        report,
        verdict=Verdict.FAIL,
        headline="The CPU fails: do not ship.",
        devices=(broken, *report.devices[1:]),
        searches=(failed_search(report),),
        diagnoses=(blamed,),
    )


def passing_report() -> Report:
    """The CPU alone, where nothing is missing."""
    report = sample_report()
    return replace(
        report, verdict=Verdict.PASS, headline="Every gate of every device passed.", devices=report.devices[:1]
    )


HOSTILE = (
    "<script>alert(1)</script>]]>\x00\x1b[31mred\x1b]8;;http://evil\x07|a|\u202e"
    "<img src=http://evil>&amp;`**\r\n# h {{ 7*7 }}"
)


def poisoned(value: Any) -> Any:
    """The same report with hostile text at the end of every string and of every key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: poisoned(getattr(value, one.name)) for one in dataclasses.fields(value)})
    if isinstance(value, tuple):
        return tuple(poisoned(one) for one in value)
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    if isinstance(value, dict):
        return {
            name if name in {"weights", "deployed"} else name + HOSTILE: poisoned(one) for name, one in value.items()
        }
    return value + HOSTILE if isinstance(value, str) and not isinstance(value, Enum) else value
