"""Model -> hub: write the graph in the hub dialect, pointing to the model's weights, and check it by a reference."""

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.model import PROVENANCE, TOKENIZER_FILES, Model, ModelFacts
from export.parity import HubSession, Parity, check_parity
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx_ir as ir

GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"

# What a package needs beside the graph, copied along so that each stage reads one folder.
SIDE_FILES = ("config.json", "generation_config.json", PROVENANCE, *TOKENIZER_FILES)

# How a hub was made: written from the configuration, or traced by optimum.
NATIVE, OPTIMUM = "native", "optimum"


@dataclass(frozen=True)
class OnnxModel:
    """The hub: `model.onnx`, the configuration and the tokenizer.

    A native hub's graph points into the model's safetensors files: weights of a small model take half a gigabyte, and
    copying them would take longer than all the rest. An optimum hub has its weights in `model.onnx.data`.

    Attributes:
        folder: where the files are.
        facts: the architecture and its provenance.
        parity: how far its logits are from the reference's.
        nodes: operators in the graph.
        route: `native` or `optimum`.
        model_folder: the imported model's folder, which a native hub's graph points into.
    """

    folder: Path
    facts: ModelFacts
    parity: Parity
    nodes: int
    route: str = OPTIMUM
    model_folder: Path | None = None

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH

    @property
    def weights(self) -> Path:
        """The folder that the graph's external data are relative to.

        Raises:
            StageFailed: the hub is a native one, and nobody said where its model is.
        """
        if self.route == OPTIMUM:
            return self.folder
        if self.model_folder is None:
            raise StageFailed(f"the hub in {self.folder} is apart from its model", "read it with its model")
        return self.model_folder

    def beside(self, model: Model) -> "OnnxModel":
        """The same hub, told where its model is."""
        return replace(self, model_folder=model.folder)


def export_hub(model: Model, out: Path) -> OnnxModel:
    """Export `model` to `out` in the hub dialect.

    Raises:
        StageFailed: the export is not valid ONNX, lacks an expected operator, or its logits differ from the
            reference's.
    """
    from export.native_hub import can_write

    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    exported = write_native(model, config, out) if can_write(config) else write_optimum(model, out)
    copy_side_files(model.folder, out)
    return exported


def write_native(model: Model, config: dict[str, Any], out: Path) -> OnnxModel:
    """Write the graph from the configuration; no weight is held."""
    import onnx_ir as ir

    from export.native_hub import native_hub
    from export.reference import check_layers
    from export.tensor_map import tensor_places

    places = tensor_places(model.folder)
    hub = native_hub(config, places)
    check_dialect(hub, model.facts)
    check_valid(hub)
    ir.save(hub, out / GRAPH)
    parity = check_layers(config, places, model)
    return OnnxModel(out, model.facts, parity, len(list(hub.graph)), NATIVE, model.folder)


def write_optimum(model: Model, out: Path) -> OnnxModel:
    """Trace the PyTorch model, and compare all of its logits with those of the hub."""
    import onnx
    import onnx_ir as ir

    from export.optimum_hub import export_with_optimum, read_hub_dialect

    with tempfile.TemporaryDirectory(dir=out) as scratch:
        torch_model = export_with_optimum(model.folder, Path(scratch))
        hub = read_hub_dialect(Path(scratch) / GRAPH)
        check_dialect(hub, model.facts)
        ir.save(hub, out / GRAPH, external_data=WEIGHTS)
    try:
        onnx.checker.check_model(out / GRAPH)
    except onnx.checker.ValidationError as error:
        raise StageFailed(f"the exported hub is not valid ONNX: {error}", "report this model") from error
    parity = check_parity(torch_model, out / GRAPH, model.facts)
    return OnnxModel(out, model.facts, parity, len(list(hub.graph)))


def open_hub(hub: OnnxModel) -> HubSession:
    """The float hub in ONNX Runtime."""
    if hub.route == OPTIMUM:
        return HubSession(hub.graph, hub.facts)
    from export.tensor_map import tensor_places

    # 16-bit weights would be widened again for every token: there a copy pays.
    lean = all(place.dtype == "F32" for place in tensor_places(hub.weights).values())
    return HubSession(hub.graph, hub.facts, hub.weights, lean)


def load_hub(hub: OnnxModel) -> "ir.Model":
    """The hub's graph, its weights to be read where they are."""
    import onnx_ir as ir
    from onnx_ir import external_data

    model = ir.load(hub.graph)
    external_data.set_base_dir(model.graph, hub.weights)
    return model


def copy_side_files(source: Path, out: Path) -> None:
    """Copy the configuration and tokenizer files that exist in `source`."""
    for name in SIDE_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)


def check_valid(hub: "ir.Model") -> None:
    """Let onnx look at the graph; weights that are elsewhere stand as inputs of their type and shape.

    Raises:
        StageFailed: it is not valid ONNX.
    """
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(hub)
    stored = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for tensor in stored:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            proto.graph.initializer.append(tensor)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageFailed(f"the exported hub is not valid ONNX: {error}", "report this model") from error


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
