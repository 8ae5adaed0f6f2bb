"""The words a report uses for verdicts, statuses, gates and runtimes, the same in every format."""

from collections.abc import Callable, Iterable, Iterator

from targets.status import Status, Verdict
from validate.figures import NOT_MEASURED, gate_bound, gate_unit, gate_value, megabytes
from validate.report import Candidate, DeviceReport, GateResult, Report, RuntimeReport

VERDICT_WORDS: dict[Verdict, str] = {
    Verdict.PASS: "Ship",
    Verdict.FAIL: "Do not ship",
    Verdict.INCOMPLETE: "Evidence incomplete",
}

STATUS_MEANING: dict[Status, str] = {
    Status.MEASURED: "Ran on the named device: fidelity and latency are real.",
    Status.HOST_MEASURED: "Ran on a host with the same kind of device: fidelity is real, latency indicative.",
    Status.SIMULATED: "Compiled for the device and run in the vendor's simulator: numerics are real, no latency.",
    Status.EMULATED: "The device's software ran on another device: shapes and numerics are checked, no latency.",
    Status.COMPILED: "The device's compiler accepted it; it was not run.",
    Status.PREPARED: "Everything that can be done off the device is done; a named step remains.",
}

GATE_OUTCOMES: dict[Verdict, str] = {
    Verdict.PASS: "gates passed",
    Verdict.FAIL: "failed",
    Verdict.INCOMPLETE: "not measured",
}

NOTHING_TO_DO: dict[Verdict, str] = {
    Verdict.PASS: "Every gate of every device passed: sign the approvals, and keep this report as the baseline.",
    Verdict.FAIL: "No step is known that turns this into a pass: read the gates that failed.",
    Verdict.INCOMPLETE: "No step is known that closes the gaps: read the gates without a figure.",
}

NO_PACKAGE = "no package"
NO_PACKAGE_MEANING = "Nothing was built for this device, so nothing could be measured."

RUNTIME_NAMES: dict[str, str] = {
    "null": "Null runtime",
    "onnxruntime": "ONNX Runtime GenAI",
    "onnxruntime-webgpu": "ONNX Runtime WebGPU",
    "openvino": "OpenVINO GenAI",
    "openvino-gpu": "OpenVINO GenAI on GPU",
    "openvino-npu": "OpenVINO GenAI on NPU",
    "qnn": "Qualcomm QNN",
    "ryzen-ai": "AMD Ryzen AI",
}

GATE_WORDS: dict[str, str] = {
    "kl_mean": "Mean KL divergence",
    "kl_p99": "99th percentile of KL",
    "top1": "Top-1 agreement",
    "perplexity_ratio": "Perplexity ratio",
    "boundary_kl": "Largest KL at the edges of static shapes",
    "runtime_kl_gap": "KL gap between runtimes",
    "length_ratio": "Length of greedy answers, package / float",
    "ttft_ms": "Time to first token",
    "tpot_ms": "Time per output token",
    "decode_tokens_per_second": "Decode speed",
    "peak_memory_mb": "Peak memory",
    "package_mb": "Package size",
    "load_cold_s": "Load time, cold",
    "load_warm_s": "Load time, warm",
    "kl_cost": "KL that the KV cache costs at long context",
    "saving": "KV cache memory saved against 16 bits",
    "mismatches": "Texts read unlike the model's",
    "agreement": "Same call as the float model",
    "loss": "Loss of accuracy, 95 % bound",
    "repetition": "Repetition beyond the float model's",
    "placement": "Placement on the device",
    "drift": "Drift of the machine while it was timed",
    "spread": "Spread over process restarts",
    "rate_ratio": "Token rate at the soak's end, last / first",
    "memory_growth": "Memory growth in 1,000 requests",
}

# What stands in front of a gate's name and says nothing that its words do not.
GROUPS = frozenset({"answers", "latency", "soak"})

# What stands in front of a gate's name, where one word does not say it.
SIDES: dict[str, str] = {"device": "device against this CPU", "regression": "new over baseline"}

FIELD_WORDS: dict[str, str] = {
    "cores_logical": "Hardware threads",
    "cores_physical": "Cores",
    "cpu_model": "Processor",
    "glibc": "glibc",
    "htp_arch": "Hexagon architecture",
    "npuw_serialization": "NPUW format",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-ep-webgpu": "WebGPU execution provider",
    "onnxruntime-qnn": "QNN execution provider",
    "onnxruntime_genai": "ONNX Runtime GenAI",
    "openvino": "OpenVINO",
    "qairt": "QAIRT",
    "ryzen_ai": "Ryzen AI",
    "soc_model": "Qualcomm's SoC number",
    "n_heads": "Attention heads",
    "n_kv_heads": "Key and value heads",
    "n_layers": "Layers",
    "os": "Operating system",
    "quantized_source": "Source was quantized as",
    "sha256": "SHA-256",
}

KIND_WORDS = {"cpu": "CPU", "igpu": "iGPU", "gpu": "GPU", "npu": "NPU"}

# The order in which a reader needs them.
URGENCY = (Verdict.FAIL, Verdict.INCOMPLETE, Verdict.PASS)


def device_name(device: DeviceReport) -> str:
    """A device by its kind, and by its own name where that says more."""
    kind = KIND_WORDS.get(device.kind, device.kind)
    return kind if device.name == device.kind else f"{kind} {device.name}"


def package_name(device: DeviceReport, candidate: Candidate) -> str:
    """One candidate, told from all others of the report."""
    return f"{device_name(device)}, {runtime_name(candidate.backend)}, {candidate.scheme}"


def label(name: str) -> str:
    """A field's name as a heading."""
    spelled = name.removesuffix("_bytes").replace("_", " ")
    return FIELD_WORDS.get(name, spelled[:1].upper() + spelled[1:])


def runtime_name(backend: str) -> str:
    """A back end by the name its vendor gives it."""
    return RUNTIME_NAMES.get(backend, backend)


def evidence(runtime: RuntimeReport) -> tuple[Status, ...]:
    """What is proved of the package in the bundle, the furthest first."""
    carried = runtime.carried
    return carried.evidence if carried is not None else ()


def status_word(runtime: RuntimeReport) -> str:
    """How far a runtime's package got: every status that was reached, the furthest first."""
    return ", ".join(status.value for status in evidence(runtime)) or NO_PACKAGE


def status_meaning(runtime: RuntimeReport) -> str:
    """What those statuses say about the figures."""
    return " ".join(STATUS_MEANING[status] for status in evidence(runtime)) or NO_PACKAGE_MEANING


def ships(runtime: RuntimeReport) -> str:
    """What is in the bundle for a runtime, in a few words."""
    carried = runtime.carried
    if carried is None:
        return "nothing"
    package = f"{carried.scheme}, {megabytes(carried.package_bytes)} MB"
    if carried.ships:
        return package
    return f"nothing yet: {package} waits" if carried.verdict is Verdict.INCOMPLETE else f"nothing: {package} rejected"


def sentence(text: str) -> str:
    """A reason as a sentence, without the decision in front that every place shows beside it."""
    bare = text.removeprefix("ships: ").removeprefix("does not ship: ")
    capital = sentence_start(bare)
    return capital if capital.endswith((".", "!", "?")) or not capital else f"{capital}."


def sentence_start(text: str) -> str:
    """Text with a capital, unless it starts with a name such as `w8-sym`."""
    return text[:1].upper() + text[1:] if text.split(" ", 1)[0].rstrip(":").isalpha() else text


def gate_words(name: str) -> str:
    """A gate's name for people: `ttft_ms.512` is "Time to first token, 512 tokens"."""
    parts = name.split(".")
    known = next((part for part in parts if part in GATE_WORDS), None)
    if known is None:
        return name[:1].upper() + name[1:].replace("_", " ").replace(".", ", ")
    parts = [part for part in parts if part not in {known, *GROUPS}]
    rest = [f"{part} tokens" if part.isdecimal() else SIDES.get(part, part.replace("_", " ")) for part in parts]
    return ", ".join([GATE_WORDS[known], *rest])


def gate_sentence(gate: GateResult) -> str:
    """One gate in one sentence: what was measured and what was asked for."""
    unit = f" {gate_unit(gate)}" if gate_unit(gate) else ""
    if gate.value is None:
        return f"{gate_words(gate.name)}: {NOT_MEASURED}, must be {gate_bound(gate)}{unit}"
    return f"{gate_words(gate.name)}: {gate_value(gate)}, must be {gate_bound(gate)}{unit}"


def by_urgency(gates: tuple[GateResult, ...]) -> list[GateResult]:
    """Failed gates first, then those without a figure, then the rest; otherwise as they stand."""
    return sorted(gates, key=lambda gate: URGENCY.index(gate.verdict))


def deciding(runtime: RuntimeReport) -> tuple[Candidate, ...]:
    """The candidates whose gates make the runtime's verdict: the one that ships or waits, or all when none does."""
    carried = runtime.carried
    return (carried,) if carried is not None and carried.verdict is not Verdict.FAIL else runtime.candidates


def open_gates(runtime: RuntimeReport) -> list[tuple[Candidate, GateResult]]:
    """Every gate that stands between the runtime and a PASS, the failed ones of each candidate first."""
    return [
        (candidate, gate)
        for candidate in deciding(runtime)
        for gate in by_urgency(candidate.gates)
        if gate.verdict is not Verdict.PASS
    ]


def gate_counts(devices: tuple[DeviceReport, ...]) -> dict[Verdict, int]:
    """How many gates of what decides ended how; a runtime without a package counts as one gate without a figure."""
    decided = [one for device in devices for runtime in device.runtimes for one in _outcomes(runtime)]
    return {verdict: decided.count(verdict) for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCOMPLETE)}


def _outcomes(runtime: RuntimeReport) -> list[Verdict]:
    gates = [gate.verdict for candidate in deciding(runtime) for gate in candidate.gates]
    return gates or [runtime.verdict]


def next_steps(devices: tuple[DeviceReport, ...]) -> dict[str, list[str]]:
    """What to do, each with the devices and runtimes it is for: what blocks the verdict first."""
    found = [(device, runtime) for device in devices for runtime in device.runtimes]
    steps: dict[str, list[str]] = {}
    for device, runtime in sorted(found, key=lambda pair: URGENCY.index(pair[1].verdict)):
        if runtime.next_step:
            steps.setdefault(runtime.next_step, []).append(f"{device_name(device)}, {runtime_name(runtime.backend)}")
    return steps


def of_deciding(report: Report, say: Callable[[Candidate], Iterable[str]]) -> Iterator[tuple[str, str]]:
    """(package, sentence) for everything that `say` says of the packages that decide."""
    for device in report.devices:
        for runtime in device.runtimes:
            for item in deciding(runtime):
                yield from ((package_name(device, item), sentence) for sentence in say(item))
