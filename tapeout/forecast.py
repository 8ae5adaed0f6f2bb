"""What a build will need, before it starts: memory, disk and time, from the sizes in config.json.

The figures are upper estimates, fitted to builds of 135 million to 7 billion parameters (`docs/builds.md`). A source
that is not here yet has no sizes to read: its forecast is None, and nothing is refused.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from export.architectures import expected_tensors
from export.source import LocalFolder
from export.strict_json import read_object
from quantize.recipe import parse_recipe
from tapeout.jobs import Request
from targets.errors import InputRefused, NoSpace

MEMORY = Path("/proc/meminfo")
GIGA = 1e9
MEGA = 1e6
MAX_CONFIG = 1 << 20
WORDS = {"compile": "building packages", "golden": "running the float model", "measure": "measuring a package"}

# Largest process of an import, an export, a quantization or a compilation: what is loaded anyway, and bytes for every
# number of the largest tensor, which is held as floats, as codes and as the bytes of both.
BASE_BYTES = 300e6
PER_LARGEST = 26
# The float model in ONNX Runtime: weights in float32, 16-bit ones once more while they are widened, and the logits.
FLOAT_BYTES, WIDENED_BYTES, LOGIT_BYTES = 4, 4, 0.5e9
# A package that is loaded and run, in bytes of its weights: as stored, repacked, and computed in float32 beside; and
# what a prompt of 1,024 tokens takes.
RUN_SHARE, PROMPT_BYTES = 3.0, 0.3e9
# Seconds to packages on two cores that had other work to do as well: a start, and per billion parameters.
START_S, PER_BILLION_S = 50.0, 180.0


@dataclass(frozen=True)
class Forecast:
    """What a build needs.

    Attributes:
        parameters: of the model.
        build_bytes: largest process until the packages are made.
        golden_bytes: the process that runs the float model.
        measure_bytes: the process that runs a package.
        disk_bytes: of the store and the bundle together.
        build_s: seconds until the packages are made, on two cores.
    """

    parameters: int
    build_bytes: int
    golden_bytes: int
    measure_bytes: int
    disk_bytes: int
    build_s: float

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.parameters / GIGA:.2f} billion parameters: packages need {in_words(self.build_bytes)} of"
            f" memory, {in_words(self.disk_bytes)} of disk and some {self.build_s / 60:.0f} min;"
            f" measuring them {in_words(max(self.golden_bytes, self.measure_bytes))} of memory"
        )


def forecast(request: Request, until: str | None) -> Forecast | None:
    """The forecast of a whole build or of one `until` its packages; None where the source must first be fetched."""
    source = request.parsed
    if not isinstance(source, LocalFolder):
        return None
    config = read_object(source.path / "config.json", MAX_CONFIG)
    shapes = expected_tensors(config, str(source.path / "config.json"))
    stored = sum(path.stat().st_size for path in source.path.glob("*.safetensors"))
    counts = [prod(shape) for shape in shapes.values()]
    parameters, largest = sum(counts), max(counts)
    recipes = list(wanted(request, until))
    weights = [weight_bytes(shapes, recipe) for _, recipe in recipes]
    quantized = sum(weight_bytes(shapes, recipe) for recipe in {recipe for _, recipe in recipes})
    widened = WIDENED_BYTES if stored < FLOAT_BYTES * parameters else 0
    return Forecast(
        parameters=parameters,
        build_bytes=int(BASE_BYTES + PER_LARGEST * largest),
        golden_bytes=int((FLOAT_BYTES + widened) * parameters + LOGIT_BYTES),
        measure_bytes=int(RUN_SHARE * max(weights, default=0) + BASE_BYTES + PROMPT_BYTES),
        # A package is in the store and in the bundle.
        disk_bytes=int(stored + quantized + 2 * sum(weights)),
        build_s=START_S + PER_BILLION_S * parameters / GIGA,
    )


def wanted(request: Request, until: str | None) -> Iterator[tuple[str, str]]:
    """(back end, recipe) of every package that may be built: the smallest of each runtime when nothing is measured."""
    from tapeout.planning import wanted_recipes

    for device in request.target.devices:
        for runtime in device.runtimes:
            if runtime.status is not None:
                recipes = wanted_recipes(request, device, runtime)
                yield from ((runtime.backend, recipe) for recipe in (recipes if until is None else recipes[:1]))


def weight_bytes(shapes: dict[str, tuple[int, ...]], recipe: str) -> float:
    """Bytes of all weights by a recipe: codes and a float32 scale a group; the embedding and the head in 8 bits."""
    scheme = parse_recipe(recipe).format
    total = 0.0
    for name, shape in shapes.items():
        if len(shape) == 1:
            total += 4 * shape[0]
            continue
        form = scheme.embedding if "embed_tokens" in name or "lm_head" in name else scheme.for_inputs(shape[1])
        group = form.group_size if form.group_size > 0 else shape[1]
        total += prod(shape) * (form.bits / 8 + 4 / group)
    return total


def check_fits(request: Request, store: Path, until: str | None) -> Forecast | None:
    """The forecast of a build that fits this machine now.

    Raises:
        InputRefused: a stage that has to run needs more memory than is available; names what would fit.
        NoSpace: the store's file system is too full.
    """
    found = forecast(request, until)
    if found is None:
        return None
    free, room = available_bytes(), free_bytes(store)
    needs = {"compile": found.build_bytes}
    if until is None:
        needs |= {"golden": found.golden_bytes, "measure": found.measure_bytes}
    if found.disk_bytes <= room and (free is None or max(needs.values()) <= free):
        return found
    missing = missing_stages(request, store)
    for stage, needed in needs.items():
        if stage in missing and free is not None and needed > free:
            smaller = "close other programs, or use a smaller model"
            packages = f"packages alone need {in_words(found.build_bytes)}: add --until compile"
            raise InputRefused(
                f"{WORDS[stage]} needs {in_words(needed)} of memory, and {in_words(free)} are available",
                smaller if stage == "compile" or found.build_bytes > free else packages,
            )
    if "import" in missing and found.disk_bytes > room:
        raise NoSpace(
            f"the build needs {in_words(found.disk_bytes)} of disk, and {in_words(room)} are free",
            "free some space, set TAPEOUT_STORE to another folder, or name one --precision",
        )
    return found


def in_words(size: int) -> str:
    """Bytes for people: GB, or MB where that would be nothing."""
    return f"{size / GIGA:.1f} GB" if size >= GIGA / 10 else f"{size / MEGA:.1f} MB"


def missing_stages(request: Request, store: Path) -> set[str]:
    """The stages that have to run."""
    from tapeout.foresee import foresee
    from tapeout.planning import make_plan
    from tapeout.store import Store

    return {job.stage for job in foresee(make_plan(request), Store(store), request) if job.needed and not job.hit}


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that a folder is or will be on."""
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(parent).free


def available_bytes() -> int | None:
    """Memory that can be had without swapping, as Linux says it; None elsewhere."""
    if not MEMORY.exists():
        return None
    rows = dict(line.split(":", 1) for line in MEMORY.read_text(encoding="ascii").splitlines())
    return int(rows["MemAvailable"].split()[0]) * 1024
