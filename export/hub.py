"""Model -> hub: optimum exports the model to ONNX, the passes make it the hub dialect, PyTorch checks it."""

import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.model import PROVENANCE, TOKENIZER_FILES, Model, ModelFacts
from export.parity import Parity, check_parity
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"

# optimum's TorchScript exporter is exercised at this opset; the passes raise the result to the hub's.
EXPORT_OPSET = 18

# What a package needs beside the graph, copied along so that each stage reads one folder.
SIDE_FILES = ("config.json", "generation_config.json", PROVENANCE, *TOKENIZER_FILES)


@dataclass(frozen=True)
class OnnxModel:
    """The hub: `model.onnx` with its weights in `model.onnx.data`, the configuration and the tokenizer.

    Attributes:
        folder: where the files are.
        facts: the architecture and its provenance.
        parity: how far its logits are from PyTorch's.
        nodes: operators in the graph.
    """

    folder: Path
    facts: ModelFacts
    parity: Parity
    nodes: int

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH


def export_hub(model: Model, out: Path) -> OnnxModel:
    """Export `model` to `out` in the hub dialect.

    Raises:
        StageFailed: the export is not valid ONNX, lacks an expected operator, or its logits differ from PyTorch's.
    """
    import onnx

    with tempfile.TemporaryDirectory(dir=out) as scratch:
        torch_model = export_with_optimum(model.folder, Path(scratch))
        nodes = write_hub_dialect(Path(scratch) / GRAPH, out, model.facts)
    try:
        onnx.checker.check_model(out / GRAPH)
    except onnx.checker.ValidationError as error:
        raise StageFailed(f"the exported hub is not valid ONNX: {error}", "report this model") from error
    copy_side_files(model.folder, out)
    return OnnxModel(out, model.facts, check_parity(torch_model, out / GRAPH, model.facts), nodes)


def copy_side_files(source: Path, out: Path) -> None:
    """Copy the configuration and tokenizer files that exist in `source`."""
    for name in SIDE_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)


def export_with_optimum(folder: Path, out: Path) -> "torch.nn.Module":
    """Write the straight export of a Hugging Face folder and return the float32 PyTorch model.

    Attention must be eager: OpenVINO does not recognise what the exporter makes of PyTorch's fused attention,
    and runs it at a quarter of the speed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape it freezes; parity decides
        onnx_export_from_model(
            loaded, out, opset=EXPORT_OPSET, task="text-generation-with-past", do_validation=False, no_post_process=True
        )
    return loaded.eval()


def write_hub_dialect(exported: Path, out: Path, facts: ModelFacts) -> int:
    """Rewrite the straight export and save it; returns its number of nodes."""
    import onnx_ir as ir

    from export.hub_passes import hub_dialect

    hub = ir.load(exported)
    hub_dialect()(hub)
    hub.producer_name, hub.producer_version, hub.graph.name = "tapeout", None, "hub"
    check_dialect(hub, facts)
    ir.save(hub, out / GRAPH, external_data=WEIGHTS)
    return len(list(hub.graph))


def check_dialect(hub: "ir.Model", facts: ModelFacts) -> None:
    """Refuse a hub whose operators are not the expected ones.

    Raises:
        StageFailed: a norm or an attention is missing, or the embedding is stored twice.
    """
    found = [node.op_type for node in hub.graph]
    expected = {"Softmax": facts.n_layers, "RMSNormalization": 2 * facts.n_layers + 1}
    for op_type, at_least in expected.items():
        if found.count(op_type) < at_least:
            raise StageFailed(
                f"the hub has {found.count(op_type)} {op_type} where {facts.architecture} has {at_least}",
                "report this model: the exporter wrote a pattern the hub passes do not know",
            )
    table = {facts.vocab_size, facts.hidden_size}
    tables = [
        name
        for name, value in hub.graph.initializers.items()
        if value.const_value is not None and set(value.const_value.shape) == table
    ]
    if len(tables) > (1 if facts.tied_embeddings else 2):
        raise StageFailed(f"the hub stores the embedding more than once: {', '.join(tables)}", "report this model")
