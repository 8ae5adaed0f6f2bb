"""Give a decoder's OpenVINO model the form OpenVINO GenAI loads: KV cache as internal state, `beam_idx` as input."""

from typing import Any


def make_stateful(model: Any) -> None:
    """Turn `past_key_values.*` inputs and `present.*` outputs into state, in place.

    The Gather by `beam_idx` in front of each cache is part of the pattern that the CPU plugin fuses with
    attention, so it is there even for one beam.
    """
    import numpy as np
    import openvino as ov
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam_idx = opset13.parameter(ov.PartialShape([-1]), np.int32, name="beam_idx")
    beam_idx.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam_idx])
    caches = {}
    for past in [port for port in model.inputs if port.get_any_name().startswith("past_key_values.")]:
        readers = past.get_target_inputs()
        chosen = opset13.gather(past, beam_idx, opset13.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
        caches[past.get_any_name()] = past.get_any_name().replace("past_key_values", "present")
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, caches)
    start_states_empty(model)
    model.validate_nodes_and_infer_types()


def start_states_empty(model: Any) -> None:
    """Let every state begin as zeros of [batch, kv_heads, 0, head_dim]."""
    import numpy as np
    from openvino import opset13

    zero = opset13.constant(np.int64(0))
    shape = opset13.shape_of(model.input("input_ids"), output_type="i64")
    batch = opset13.gather(shape, opset13.constant(np.array([0], np.int64)), zero)
    for state in [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]:
        sizes = [dimension.min_length for dimension in state.get_output_partial_shape(0)][1:]
        dimensions = opset13.concat([batch, opset13.constant(np.array(sizes, np.int64))], 0)
        state.set_arguments([opset13.broadcast(opset13.constant(np.float32(0)), dimensions)])
