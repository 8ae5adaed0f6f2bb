"""Find the smallest part of an OpenVINO model that a compiler refuses.

The model is a decoder of ours with its cache as state. It is looked at without the state and with fixed lengths, since
that is what the NPU's pipeline makes of it before it asks the compiler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.refused_graph import smallest_refused

# Lengths at which the model is looked at: tokens that are there already, and the new one.
PAST, NEW = 63, 1

PART = "part.xml"
# What is no work of the compiler's.
NO_WORK = frozenset({"Parameter", "Constant", "Result", "ReadValue", "Assign"})


@dataclass(frozen=True)
class RefusedPart:
    """A part that is refused on its own, and of which nothing can be left out.

    Attributes:
        operators: (type, name), in the order they are computed.
        inputs: type and shape of what it reads from the rest of the model.
    """

    operators: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        """One line for an error."""
        nodes = " -> ".join(f"{kind} {name}" for kind, name in self.operators)
        reads = f" (reads {', '.join(self.inputs)})" if self.inputs else ""
        return f"{nodes}{reads}"


def find_refused_part(model: Path, compiles: Callable[[Path], bool], scratch: Path) -> RefusedPart | None:
    """Bisect `model`, which a compiler refused; None when it takes the model at fixed lengths after all.

    Args:
        model: the `.xml` of a stateful decoder.
        compiles: asks the compiler; the file it gets lies in `scratch` and is overwritten by the next one.
        scratch: an existing folder.
    """
    import openvino as ov

    count = len(work(fixed(model)))

    def taken(chosen: list[int]) -> bool:
        ov.save_model(cut(fixed(model), chosen), scratch / PART, compress_to_fp16=False)
        return compiles(scratch / PART)

    kept = smallest_refused(count, taken)
    if kept is None:
        return None
    whole = fixed(model)
    operators = tuple((str(node.get_type_name()), str(node.get_friendly_name())) for node in pick(whole, kept))
    inputs = tuple(
        f"{one.get_element_type().get_type_name()}{list(one.get_partial_shape().to_shape())}"
        for one in cut(whole, kept).inputs
    )
    return RefusedPart(operators, inputs)


def fixed(path: Path) -> Any:
    """The model without its state and with fixed lengths; every shape in it is then known."""
    import openvino as ov
    from openvino import opset13

    model = ov.Core().read_model(path)
    given = list(model.get_parameters())
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            sizes = [
                1,
                *(
                    PAST if size.is_dynamic else size.get_length()
                    for size in list(node.get_output_partial_shape(0))[1:]
                ),
            ]
            past = opset13.parameter(
                ov.PartialShape(sizes), node.get_output_element_type(0), name=node.get_friendly_name()
            )
            move(node.output(0), past.output(0))
            given.append(past)
    bare = ov.Model([result.output(0) for result in model.get_results()], given, "fixed")
    lengths = {"input_ids": [1, NEW], "position_ids": [1, NEW], "attention_mask": [1, PAST + NEW], "beam_idx": [1]}
    bare.reshape({one: lengths[one.any_name] for one in bare.inputs if one.names and one.any_name in lengths})
    fold_shapes(bare)
    return bare


def fold_shapes(model: Any) -> None:
    """Let operators read the shapes they are told as constants, in place of what computes them at other lengths.

    Only integers: folded altogether, the model would lose the quantized form of its weights.
    """
    from openvino import opset13
    from openvino.passes import ConstantFolding, Manager

    folded = model.clone()
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(folded)
    known = {
        (node.get_friendly_name(), index): port.get_source_output().get_node()
        for node in folded.get_ordered_ops()
        for index, port in enumerate(node.inputs())
        if port.get_source_output().get_node().get_type_name() == "Constant"
    }
    for node in model.get_ordered_ops():
        for index, port in enumerate(node.inputs()):
            constant = known.get((node.get_friendly_name(), index))
            old = port.get_source_output().get_node()
            if constant is None or old.get_type_name() == "Constant" or not port.get_element_type().is_integral():
                continue
            value = opset13.constant(constant.get_data(), port.get_element_type())
            port.replace_source_output(value.output(0))
    model.validate_nodes_and_infer_types()


def work(model: Any) -> list[Any]:
    """The operators that are computed at every step: no constants, nor what is computed of constants alone."""
    found, constant = [], set()
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        if kind == "Constant" or (sources and all(source in constant for source in sources)):
            constant.add(name)
        elif kind not in NO_WORK:
            found.append(node)
    return found


def pick(model: Any, chosen: list[int]) -> list[Any]:
    """The operators at those places of `work`."""
    every = work(model)
    return [every[index] for index in chosen]


def cut(model: Any, chosen: list[int]) -> Any:
    """A model of the chosen operators; what they read of others becomes an input, what others read of them an output.

    `model` is used up.
    """
    import openvino as ov
    from openvino import opset13

    nodes = pick(model, chosen)
    inside = {node.get_friendly_name() for node in nodes}
    outside = {node.get_friendly_name() for node in work(model)} - inside
    given: dict[tuple[str, int], Any] = {}
    for node in nodes:
        for port in node.inputs():
            source = port.get_source_output()
            owner = source.get_node()
            name = owner.get_friendly_name()
            if owner.get_type_name() != "Parameter" and name not in outside:
                continue
            key = (name, source.get_index())
            if key not in given:
                given[key] = opset13.parameter(source.get_partial_shape(), source.get_element_type())
            port.replace_source_output(given[key].output(0))
    results = [port for node in nodes for port in node.outputs() if read_outside(port, inside)]
    return ov.Model(results, list(given.values()), "part")


def read_outside(port: Any, inside: set[str]) -> bool:
    """Whether something that is not kept reads the output, or nothing does."""
    readers = [target.get_node().get_friendly_name() for target in port.get_target_inputs()]
    return not readers or any(reader not in inside for reader in readers)


def move(old: Any, new: Any) -> None:
    """Let all that reads `old` read `new`."""
    for target in old.get_target_inputs():
        target.replace_source_output(new)
