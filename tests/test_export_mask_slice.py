"""The mask is read whole where a Slice would return all of it, and nowhere else."""

import onnx_ir as ir
import pytest

from export.hub import OnnxModel, load_hub
from export.mask_slice import WholeMaskPass

LAYER = """
<ir_version: 10, opset_import: ["" : 18]>
layer (float[1, 2, 1, 8] past, float[1, 2, s, 8] fresh, float[1, 2, s, t] scores, float[1, 1, s, t] mask)
    => (float[1, 2, s, t] y, float[1, 2, t, 8] present_0_key)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] axis = {3}, int64 two = {2}, int64[1] zeros = {0}>
{
    present_0_key = Concat<axis = 2>(past, fresh)
    shape = Shape(present_0_key)
    length = Gather<axis = 0>(shape, two)
    end = Unsqueeze(length, zeros)
    cut = Slice(mask, START, END, axis, one)
    masked = Add(scores, cut)
    y = Softmax<axis = -1>(masked)
}
"""


def cut_mask(start: str = "zero", end: str = "end") -> ir.Model:
    """The end of one layer's attention, its mask cut."""
    model = ir.from_onnx_text(LAYER.replace("START", start).replace("END", end))
    keys = next(value for value in model.graph.outputs if value.name == "present_0_key")
    keys.name = "present.0.key"  # a name that the text form cannot spell
    return model


def reads(model: ir.Model) -> str | None:
    """What is added to the scores."""
    value = next(node for node in model.graph if node.op_type == "Add").inputs[1]
    return value.name if value is not None else None


def test_the_whole_mask_is_read() -> None:
    model = cut_mask()
    assert WholeMaskPass()(model).modified
    assert reads(model) == "mask"


@pytest.mark.parametrize("near_miss", [{"start": "one"}, {"end": "axis"}])
def test_a_slice_that_takes_less_stays(near_miss: dict[str, str]) -> None:
    model = cut_mask(**near_miss)
    assert not WholeMaskPass()(model).modified
    assert reads(model) == "cut"


def test_no_layer_of_a_hub_cuts_its_mask(tiny_hub: OnnxModel) -> None:
    hub = load_hub(tiny_hub)
    added = [
        node.inputs[0].producer() for node in hub.graph if node.op_type == "Softmax" and node.inputs[0] is not None
    ]
    masks = {value.name for node in added if node is not None for value in node.inputs[1:] if value is not None}
    assert len(added) == tiny_hub.facts.n_layers
    assert len(masks) == 1
