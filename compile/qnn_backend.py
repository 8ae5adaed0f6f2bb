"""Quantized -> static prefill and decode graphs, compiled ahead of time for Qualcomm's HTP."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compile.package import Package, folder_bytes, refuse_options
from compile.qnn_compiler import Hexagon, binary_of, compile_contexts, tools
from compile.qnn_rules import check_device
from export.hub import copy_side_files
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed, TapeoutError, UsageError
from targets.names import choose
from targets.status import Status

ACTIVATIONS = {"float16": "float activations, which the HTP computes in float16; nothing is calibrated"}

# Slots of the KV cache, and tokens that one prefill takes.
CONTEXT, CHUNK = 512, 64
LONGEST_CONTEXT = 32768

SESSIONS = ("prefill", "decode")


@dataclass(frozen=True)
class QnnOptions:
    """What a target says of its HTP.

    Attributes:
        hexagon: the device.
        context: slots of the KV cache; a model of fewer positions gets as many as it has.
        chunk: tokens that one prefill takes.
        activations: a name of `ACTIVATIONS`.
    """

    hexagon: Hexagon
    context: int
    chunk: int
    activations: str

    @classmethod
    def read(cls, options: Mapping[str, str | int]) -> "QnnOptions":
        """From a target's options.

        Raises:
            UsageError: an unknown or missing option, or a value out of bounds.
        """
        refuse_options(options, ("soc_model", "htp_arch", "context", "chunk", "activations"), QnnBackend.name)
        hexagon = Hexagon(whole(options, "soc_model", None, 1 << 16), whole(options, "htp_arch", None, 1 << 16))
        check_device(hexagon.soc_model, hexagon.htp_arch)
        context = whole(options, "context", CONTEXT, LONGEST_CONTEXT)
        chunk = whole(options, "chunk", CHUNK, context)
        activations = str(options.get("activations", "float16"))
        choose(activations, ACTIVATIONS, "kind of activations")
        return cls(hexagon, context, chunk, activations)


def whole(options: Mapping[str, str | int], name: str, default: int | None, largest: int) -> int:
    """A positive whole number among the options.

    Raises:
        UsageError: missing without a default, not a number, or out of bounds.
    """
    value = options.get(name, default)
    if value is None:
        raise UsageError(f"back end qnn needs the option '{name}'", f"give the device's {name} in the target file")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(f"option {name} = {value!r} is not a whole number from 1 to {largest}", "correct the target")
    return value


class QnnBackend:
    """ONNX Runtime's QNN execution provider."""

    name = "qnn"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library, the runtime, the execution provider and its QAIRT."""
        return tools()

    def compile_package(self, quantized: QuantizedModel, options: Mapping[str, str | int], out: Path) -> Package:
        """Write the static graphs, their contexts, the manifest, the scripts and the tokenizer to `out`.

        Raises:
            UsageError: unknown, missing or unsupported options.
            DeviceMissing: the execution provider is not installed.
            StageFailed: the HTP's compiler failed or left operators on the CPU, or a weight changed.
            TimedOut: the compiler did not end.
        """
        from compile.qnn_graphs import check_contexts, check_sources, write_sources
        from compile.qnn_package import write_manifest, write_scripts

        chosen, versions = QnnOptions.read(options), tools()
        context = min(chosen.context, quantized.facts.max_positions)
        sizes = {"prefill": min(chosen.chunk, context), "decode": 1}
        packed = write_sources(quantized, context, sizes, out)
        checks, digest = check_sources(quantized, packed, out)
        compile_graphs(chosen.hexagon, out)
        contexts = [out / f"{session}_ctx.onnx" for session in SESSIONS]
        check_contexts(contexts)
        copy_side_files(quantized.folder, out)
        settings = {**chosen.hexagon.provider_options(), "htp_performance_mode": "burst"}
        requires = {**{key: settings[key] for key in ("soc_model", "htp_arch")}, **versions}
        write_manifest(out, requires, {"context": context, "chunk": sizes["prefill"]}, contexts)
        write_scripts(out)
        return Package(
            folder=out,
            facts=quantized.facts,
            backend=self.name,
            scheme=quantized.scheme,
            weights_digest=digest,
            checks={**checks, "contexts": len(contexts), "context_bytes": binary_of(contexts[0]).stat().st_size},
            settings={**settings, "context": context, "chunk": sizes["prefill"]},
            package_bytes=folder_bytes(out),
            evidence=(Status.COMPILED,),
            next_step="On the device run finalize.ps1 (Windows) or finalize.sh (Linux) of the package: it checks the "
            "QAIRT release, opens the contexts or compiles afresh, and measures.",
            requires=requires,
        )


def compile_graphs(hexagon: Hexagon, out: Path) -> None:
    """Compile the source graphs in `out`; on failure name the smallest part of a graph that is refused, if one is.

    Raises:
        StageFailed: the compiler failed; its log is kept.
        TimedOut: it did not end.
    """
    scratch = Path(tempfile.mkdtemp(prefix="tapeout-htp-"))
    log = scratch / "compiler.log"
    graphs = [(out / f"{session}.onnx", out / f"{session}_ctx.onnx") for session in SESSIONS]
    try:
        compile_contexts(hexagon, graphs, "HTP compiler: prefill and decode graphs", scratch, log)
    except StageFailed as error:
        found = explain(hexagon, out, scratch)
        raise StageFailed(f"{error.what}{found}", error.help) from error
    shutil.rmtree(scratch)


def explain(hexagon: Hexagon, out: Path, scratch: Path) -> str:
    """What bisection finds, in the smaller graph first, as the end of an error's sentence."""
    from compile.qnn_graphs import write_control
    from compile.refused_graph import find_refused

    trial = scratch / "trial"
    trial.mkdir()

    def compiles(path: Path) -> bool:
        context = path.with_name("part_ctx.onnx")
        for stale in (context, binary_of(context)):
            stale.unlink(missing_ok=True)
        try:
            compile_contexts(hexagon, [(path, context)], "HTP compiler: part of a graph", trial, trial / "log.txt")
        except StageFailed:
            return False
        return True

    if not compiles(write_control(trial)):
        return "\nit does not compile a single addition either: it does not work here"
    for session in reversed(SESSIONS):
        try:
            refused = find_refused(out / f"{session}.onnx", compiles, trial)
        except TapeoutError as error:
            return f"\nwhich part of the {session} graph it refuses was not found: {error.what}"
        if refused:
            return f"\nthe smallest part of the {session} graph that it refuses: {refused}"
    return "\nit takes each graph on its own"
