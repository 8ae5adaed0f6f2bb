"""Quantized -> a checkpoint as AMD Quark writes it: safetensors, and a config.json that says how they are packed.

Linear weights of the decoder layers and the head are uint4 in groups. The embedding table, which Quark leaves alone,
is stored in float32 with the values that its 8-bit codes stand for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compile.quark_format import BITS, SCALE, WEIGHT, ZERO_POINT, PackedWeight, pack_weight, unpack_weight
from export.architectures import expected_tensors
from export.safetensors_check import StoredTensor, check_safetensors
from export.strict_json import parse_object
from quantize.weight import QuantizedWeight
from targets.errors import StageFailed

if TYPE_CHECKING:
    import onnx_ir as ir

QUARK = "0.13"
CONFIG = "config.json"
TENSORS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
STORED = {"I32": "<i4", "F32": "<f4"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, by the names that transformers gives.

    Attributes:
        packed: linear weights.
        floats: norms, biases and the embedding table, float32.
    """

    packed: Mapping[str, QuantizedWeight]
    floats: Mapping[str, NDArray[np.float32]]


def collect(hub: "ir.Model", config: Mapping[str, Any]) -> Checkpoint:
    """What a quantized hub has for the tensors that its config.json promises.

    Raises:
        StageFailed: a tensor is missing, is not in a form Quark's uint4 checkpoints have, or has no place in one.
    """
    from quantize.hub_weights import quantized_weights

    quantized = {name: weight for name, _, weight in quantized_weights(hub)}
    expected = expected_tensors(dict(config), CONFIG)
    floats = {
        name: value.const_value.numpy().astype(np.float32)
        for name, value in hub.graph.initializers.items()
        if name in expected and value.const_value is not None
    }
    refuse_other_vectors(hub, expected)
    table = quantized.pop(EMBEDDING, None)
    if table is not None:
        floats[EMBEDDING] = table.dequantize()
    missing = set(expected) - set(quantized) - set(floats)
    if missing:
        raise StageFailed(
            f"the hub has no {', '.join(sorted(missing))} for a checkpoint",
            "report this model: its weights cannot be named as transformers names them",
        )
    return Checkpoint(quantized, floats)


def refuse_other_vectors(hub: "ir.Model", expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a hub that computes with vectors a checkpoint has no place for, such as factors on activations.

    Raises:
        StageFailed: names the first.
    """
    hidden = expected["model.norm.weight"][0]
    for name, value in hub.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or str(tensor.dtype) != "FLOAT" or int(np.prod(tensor.shape.numpy())) < hidden:
            continue
        if name not in expected and not name.endswith(".scales"):
            raise StageFailed(
                f"the hub computes with {name}, for which a checkpoint of this architecture has no place",
                "choose a scheme that changes nothing but weights",
            )


def write_checkpoint(checkpoint: Checkpoint, config: Mapping[str, Any], folder: Path) -> None:
    """Write `model.safetensors` and `config.json` to `folder`.

    Raises:
        StageFailed: a weight is not of 4 bits, or the weights of the layers differ in their groups.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = dict(checkpoint.floats)
    for name, weight in checkpoint.packed.items():
        packed, stem = pack_weight(weight, name), name.removesuffix(WEIGHT)
        tensors |= {name: packed.codes, stem + SCALE: packed.scales, stem + ZERO_POINT: packed.zero_points}
    save_file({name: tensors[name] for name in sorted(tensors)}, folder / TENSORS, metadata={"format": "pt"})
    sizes = {weight.group_size for name, weight in checkpoint.packed.items() if name != HEAD}
    if len(sizes) != 1:
        raise StageFailed(
            f"the layers' weights have groups of {', '.join(map(str, sorted(sizes)))}; Quark names one size for all",
            "choose a scheme that ends in g32, g64 or g128",
        )
    head = checkpoint.packed.get(HEAD)
    described = quantization_config(sizes.pop(), head.group_size if head is not None else None)
    text = json.dumps({**config, "quantization_config": described}, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def quantization_config(group_size: int, head_group_size: int | None) -> dict[str, Any]:
    """What Quark 0.13 writes for `uint4_wo_<group size>`, with a group size of its own for the head."""
    head = {} if head_group_size is None else {"lm_head": layer_config(head_group_size)}
    return {
        "algo_config": None,
        "exclude": [],
        "export": {
            "kv_cache_group": [],
            "min_kv_scale": 0.0,
            "pack_method": "reorder",
            "weight_format": "real_quantized",
            "weight_merge_groups": None,
        },
        "global_quant_config": layer_config(group_size),
        "kv_cache_post_rope": False,
        "kv_cache_quant_config": {},
        "layer_quant_config": head,
        "layer_type_quant_config": {},
        "quant_method": "quark",
        "quant_mode": "eager_mode",
        "softmax_quant_spec": None,
        "version": QUARK,
    }


def layer_config(group_size: int) -> dict[str, Any]:
    """Quark's description of uint4 weights with a zero point per group; activations stay in floating point."""
    return {
        "bias": None,
        "input_tensors": None,
        "output_tensors": None,
        "target_device": None,
        "weight": {
            "block_size": None,
            "ch_axis": -1,
            "dtype": f"uint{BITS}",
            "enable_buffer_reuse": False,
            "group_size": group_size,
            "is_dynamic": False,
            "is_scale_quant": False,
            "max_input_numel": 4194304,
            "mx_element_dtype": None,
            "observer_cls": "PerGroupMinMaxObserver",
            "qscheme": "per_group",
            "round_method": "half_even",
            "scale_calculation_mode": None,
            "scale_format": None,
            "scale_type": "float",
            "symmetric": False,
            "zero_point_type": "int32",
        },
    }


def read_checkpoint(folder: Path) -> Checkpoint:
    """The weights of a checkpoint in Quark's uint4 format, with numpy alone.

    Raises:
        InputRefused: the safetensors file is not sound.
        StageFailed: config.json describes another format, or a tensor is not as it says.
    """
    config = parse_object((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    check_described(config)
    entries = check_safetensors(folder / TENSORS)
    room = (folder / TENSORS).stat().st_size - max(entry.end for entry in entries.values())
    data = np.memmap(folder / TENSORS, np.uint8, "r", offset=room)
    arrays = {name: read_tensor(data, name, entry) for name, entry in entries.items()}
    packed, floats = {}, {}
    for name, array in arrays.items():
        stem = name.removesuffix(WEIGHT)
        if array.dtype == np.float32 and not name.endswith(SCALE):
            floats[name] = array
        elif name.endswith(f".{WEIGHT}"):
            packed[name] = unpack_weight(PackedWeight(array, arrays[stem + SCALE], arrays[stem + ZERO_POINT]))
    check_groups(config, packed)
    return Checkpoint(packed, floats)


def check_described(config: Mapping[str, Any]) -> None:
    """Refuse a config.json that describes anything but Quark's uint4 groups, reordered.

    Raises:
        StageFailed: it does.
    """
    quantization = config.get("quantization_config") or {}
    weight = (quantization.get("global_quant_config") or {}).get("weight") or {}
    found = (
        quantization.get("quant_method"),
        (quantization.get("export") or {}).get("pack_method"),
        weight.get("dtype"),
        weight.get("qscheme"),
    )
    if found != ("quark", "reorder", f"uint{BITS}", "per_group"):
        raise StageFailed(f"a checkpoint of {found}, not one of Quark's uint4 groups", "build the package again")


def read_tensor(data: NDArray[np.uint8], name: str, entry: StoredTensor) -> NDArray[Any]:
    """One tensor of the bytes that follow a header.

    Raises:
        StageFailed: a type that Quark's uint4 checkpoints do not have.
    """
    if entry.dtype not in STORED:
        raise StageFailed(f"{name} is stored as {entry.dtype}, not as {' or '.join(STORED)}", "build the package again")
    return np.array(data[entry.begin : entry.end]).view(STORED[entry.dtype]).reshape(entry.shape)


def check_groups(config: Mapping[str, Any], packed: Mapping[str, QuantizedWeight]) -> None:
    """Hold the weights' groups against what config.json says of them.

    Raises:
        StageFailed: one differs.
    """
    quantization = config["quantization_config"]
    for name, weight in packed.items():
        layer = quantization["layer_quant_config"].get(name.split(".")[0]) or quantization["global_quant_config"]
        said = layer["weight"]["group_size"]
        if weight.group_size != said:
            raise StageFailed(f"{name} has groups of {weight.group_size}; {CONFIG} says {said}", "build it again")
