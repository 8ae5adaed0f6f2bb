"""Quantized -> static prefill and decode graphs, compiled ahead of time for Qualcomm's HTP."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from compile.package import Package, folder_bytes
from compile.qnn_compiler import binary_of, compile_contexts, tools
from compile.qnn_options import Hexagon, QnnOptions, check_options, needs_ranges
from export.hub import copy_side_files
from quantize.activation_ranges import ActivationRanges
from quantize.quantizer import QuantizedModel
from targets.errors import StageFailed, TapeoutError, UsageError
from targets.status import Status

SESSIONS = ("prefill", "decode")


class QnnBackend:
    """ONNX Runtime's QNN execution provider."""

    name = "qnn"

    def tools(self) -> Mapping[str, str]:
        """Versions of the graph library, the runtime, the execution provider and its QAIRT."""
        return tools()

    def compile_package(
        self,
        quantized: QuantizedModel,
        options: Mapping[str, str | int],
        out: Path,
        ranges: ActivationRanges | None = None,
    ) -> Package:
        """Write the static graphs, their contexts, the manifest, the scripts and the tokenizer to `out`.

        `ranges` are those that `needs_ranges` asks for; without 16-bit activations there are none.

        Raises:
            UsageError: unknown, missing or unsupported options, or weights that are not for 16-bit activations.
            DeviceMissing: the execution provider is not installed.
            StageFailed: the HTP's compiler failed or left operators on the CPU, or a weight changed.
            TimedOut: the compiler did not end.
        """
        from compile.qnn_graphs import check_contexts, check_sources, write_sources
        from compile.qnn_package import write_manifest, write_scripts

        check_options(options, quantized.scheme)
        chosen, versions = QnnOptions.read(options), tools()
        if needs_ranges(options) and ranges is None:
            raise UsageError("16-bit activations need calibrated ranges", "run the stage `ranges` on this model first")
        limits = ranges.load() if ranges is not None and needs_ranges(options) else {}
        context = min(chosen.context, quantized.facts.max_positions)
        sizes = {"prefill": min(chosen.chunk, context), "decode": 1}
        packed = write_sources(quantized, context, sizes, out, limits)
        checks, digest = check_sources(quantized, packed, out)
        compile_graphs(chosen.hexagon, out)
        contexts = [out / f"{session}_ctx.onnx" for session in SESSIONS]
        check_contexts(contexts)
        copy_side_files(quantized.folder, out)
        settings = {**chosen.hexagon.provider_options(), "htp_performance_mode": "burst"}
        requires = {**{key: settings[key] for key in ("soc_model", "htp_arch")}, **versions}
        if ranges is not None and limits:
            requires["activations"] = f"uint16, calibrated on {ranges.tokens} tokens"
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
