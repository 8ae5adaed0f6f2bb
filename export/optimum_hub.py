"""The other road to the hub: optimum traces the PyTorch model, and passes make the result the hub dialect.

Taken for what `native_hub` does not write. It holds the float32 model in memory several times over.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

# optimum's TorchScript exporter is exercised at this opset; the passes raise the result to the hub's.
EXPORT_OPSET = 18


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


def read_hub_dialect(exported: Path) -> "ir.Model":
    """The straight export, rewritten to the hub dialect."""
    import onnx_ir as ir

    from export.hub_passes import hub_dialect

    hub = ir.load(exported)
    hub_dialect()(hub)
    hub.producer_name, hub.producer_version, hub.graph.name = "tapeout", None, "hub"
    return hub
