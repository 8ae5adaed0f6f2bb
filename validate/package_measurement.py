"""Everything that was measured on one package."""

from dataclasses import dataclass, field

from targets.status import Status
from validate.experience import Felt
from validate.kv_cache import KvCache
from validate.measurement import Answer, BoundaryGap, DeviceGap, Fidelity, Latency, Loading, Placement
from validate.parity import TokenizerParity
from validate.prompt_cache_measure import CachedPrompt
from validate.roofline import Roofline
from validate.soak_figures import Soak
from validate.steadiness import Conditions, Restarts


@dataclass(frozen=True)
class Measurement:
    """Everything measured on one package. None: not measured, and a gate on it is INCOMPLETE.

    Attributes:
        fidelity: by setting: `weights` (runtime precision pinned to float32) and `deployed` (as it ships).
        answers: greedy answers to fixed requests.
        latency: by prompt length, ascending.
        loading: load times and memory.
        placements: requested and actual device of every session.
        stand_in: the device itself is not here: what ran is a simulator, an emulator, or this CPU on the weights alone.
        ran: what running the package here was, or None when it did not run.
        device_gap: the stand-in's distance from this host's CPU.
        boundaries: prompts at the edges of the package's static shapes, where a stand-in has such shapes.
        parity: the package's own tokenizer and template engine beside the model's.
        kv_cache: what the KV cache's precision saves and costs at long context.
        felt: what users would feel, where the build asked for it.
        chat: (request, answer) through the runtime's own chat pipeline, text in, text out.
        threads: threads the runtime computed with.
        environment: versions of the runtimes, by name.
        host: what this machine was, as `targets.probe.Host` has it.
        drift: TTFT in the later half of the rounds over that in the earlier, 1 being a machine that stayed as it was.
        conditions: governor, clock, temperature and load around the measurement.
        restarts: the package in fresh processes: first and later requests apart, and their spread.
        roofline: decode speed beside what the memory bandwidth measured here allows.
        prompt_cache: requests behind the prefix whose state the bundle carries.
        prompt_cache_refused: why this runtime cannot be given the state of the prefix that was asked for.
        soak: what it did under load for a long time, where that was asked for.
    """

    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    latency: tuple[Latency, ...] = ()
    loading: Loading | None = None
    placements: tuple[Placement, ...] = ()
    stand_in: bool = False
    ran: Status | None = None
    device_gap: DeviceGap | None = None
    boundaries: tuple[BoundaryGap, ...] = ()
    parity: TokenizerParity | None = None
    kv_cache: KvCache | None = None
    felt: Felt | None = None
    chat: tuple[str, str] | None = None
    threads: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    host: dict[str, object] = field(default_factory=dict)
    drift: float | None = None
    conditions: Conditions | None = None
    restarts: Restarts | None = None
    roofline: Roofline | None = None
    prompt_cache: CachedPrompt | None = None
    prompt_cache_refused: str | None = None
    soak: Soak | None = None
