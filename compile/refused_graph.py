"""Find the smallest part of a graph that a compiler refuses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

# Does the compiler take the ONNX file?
Compiles = Callable[[Path], bool]

GRAPH, WEIGHTS = "part.onnx", "part.onnx.data"


@dataclass(frozen=True)
class Refusal:
    """A part of a graph that is refused on its own, and of which nothing can be left out.

    Attributes:
        operators: (type, name) of its nodes, in graph order.
        inputs: (name, type and shape) of what it reads from the rest of the graph.
        compiled: how often the compiler was asked.
    """

    operators: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str], ...]
    compiled: int

    def __str__(self) -> str:
        """One line for an error."""
        nodes = " -> ".join(f"{op_type} {name}" for op_type, name in self.operators)
        inputs = ", ".join(f"{name} {kind}" for name, kind in self.inputs)
        return f"{nodes}{f' (reads {inputs})' if inputs else ''}"


def find_refused(path: Path, compiles: Compiles, scratch: Path) -> Refusal | None:
    """Bisect the graph in `path`, which a compiler refused; None when it takes the graph after all.

    Halves are asked for first, so that a graph whose one operator is refused costs at most as much as compiling it
    three times more. Where each half is taken and only both together are not, the cut is moved in from both ends.
    Nodes that only mean something together (`units`) are never cut apart.

    Args:
        path: ONNX file with every intermediate shape inferred or inferable.
        compiles: asks the compiler; a file it gets lies in `scratch` and is overwritten by the next one.
        scratch: an existing folder.
    """
    search = Search(path, compiles, scratch)
    kept = smallest_refused(len(search.units), search.taken)
    return None if kept is None else search.refusal(kept)


def smallest_refused(count: int, taken: Callable[[list[int]], bool]) -> list[int] | None:
    """Of `count` units in a row, those that are refused together and of which none can be left out; None if none are.

    Args:
        count: units, numbered from 0.
        taken: whether the compiler takes the part made of these units.
    """
    low, high = 0, count
    if taken(list(range(low, high))):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if not taken(list(range(low, middle))):
            high = middle
        elif not taken(list(range(middle, high))):
            low = middle
        else:
            high = last_end(low, middle + 1, high, taken)
            low = first_start(low, middle, high, taken)
            break
    return without_the_rest(list(range(low, high)), taken)


def last_end(low: int, first: int, high: int, taken: Callable[[list[int]], bool]) -> int:
    """The smallest end in `first..high` for which low..end is refused."""
    while first < high:
        middle = (first + high) // 2
        first, high = (middle + 1, high) if taken(list(range(low, middle))) else (first, middle)
    return high


def first_start(low: int, last: int, high: int, taken: Callable[[list[int]], bool]) -> int:
    """The largest start in `low..last` for which start..high is refused."""
    while low < last:
        middle = (low + last + 1) // 2
        low, last = (low, middle - 1) if taken(list(range(middle, high))) else (middle, last)
    return low


def without_the_rest(kept: list[int], taken: Callable[[list[int]], bool]) -> list[int]:
    """Leave out what can be left out, in ever smaller pieces, while what remains is refused."""
    size = len(kept) // 2
    while size:
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if rest and not taken(rest):
                kept = rest
                break
        else:
            size //= 2
    return kept


class Search:
    """The graph, cut into units, and the compiler."""

    def __init__(self, path: Path, compiles: Compiles, scratch: Path) -> None:
        self.path, self.compiles, self.scratch = path, compiles, scratch
        self.model = ir.load(path)
        common.TopologicalSortPass()(self.model)
        self.nodes = list(self.model.graph)
        self.units = units(self.nodes)
        self.count = 0

    def taken(self, chosen: Sequence[int]) -> bool:
        """Whether the compiler takes the part made of these units."""
        self.count += 1
        part = extract(self.path, [node for unit in chosen for node in self.units[unit]])
        (self.scratch / WEIGHTS).unlink(missing_ok=True)
        ir.save(part, self.scratch / GRAPH, external_data=WEIGHTS)
        return self.compiles(self.scratch / GRAPH)

    def refusal(self, kept: Sequence[int]) -> Refusal:
        """The finding."""
        indices = [node for unit in kept for node in self.units[unit]]
        part = extract(self.path, indices)
        nodes = [self.nodes[index] for index in sorted(indices)]
        return Refusal(
            operators=tuple((node.op_type, node.name or "") for node in nodes),
            inputs=tuple((value.name or "", f"{value.dtype}{value.shape}") for value in part.graph.inputs),
            compiled=self.count,
        )


def units(nodes: Sequence[ir.Node]) -> list[list[int]]:
    """Indices of nodes that belong together, in graph order: what dequantizes for an operator, it, what quantizes it.

    Cutting between them would make a graph that no compiler was meant to see.
    """
    owner = list(range(len(nodes)))
    place = {node: index for index, node in enumerate(nodes)}

    def root(index: int) -> int:
        while owner[index] != index:
            index = owner[index]
        return index

    for index, node in enumerate(nodes):
        readers = [place[user] for value in node.outputs for user, _ in value.uses() if user in place]
        if node.op_type == "DequantizeLinear":
            together = readers
        else:
            together = [reader for reader in readers if nodes[reader].op_type == "QuantizeLinear"]
        for other in together:
            first, second = sorted((root(index), root(other)))
            owner[second] = first
    grouped: dict[int, list[int]] = {}
    for index in range(len(nodes)):
        grouped.setdefault(root(index), []).append(index)
    return list(grouped.values())


def extract(path: Path, indices: Sequence[int]) -> ir.Model:
    """A model of the nodes at `indices` of the sorted graph in `path`.

    What they read from other nodes becomes an input, what others read from them an output.
    """
    model = ir.load(path)
    common.ShapeInferencePass()(model)
    common.TopologicalSortPass()(model)
    graph = model.graph
    nodes = list(graph)
    kept = {nodes[index] for index in indices}
    made = [value for node in nodes if node in kept for value in node.outputs]
    finals = set(graph.outputs)
    graph.outputs[:] = [value for value in made if value in finals or read_outside(value, kept)]
    inputs = [value for value in graph.inputs if any(user in kept for user, _ in value.uses())]
    for node in nodes:
        if node in kept:
            continue
        for value in node.outputs:
            users = [user for user, _ in value.uses() if user in kept]
            if users:
                inputs.append(replace_by_input(value, users))
    graph.inputs[:] = inputs
    graph.remove([node for node in reversed(nodes) if node not in kept], safe=False)
    common.RemoveUnusedNodesPass()(model)
    return model


def read_outside(value: ir.Value, kept: set[ir.Node]) -> bool:
    """Whether a node that is not kept reads `value`, or none does."""
    return not value.uses() or any(user not in kept for user, _ in value.uses())


def replace_by_input(value: ir.Value, users: Sequence[ir.Node]) -> ir.Value:
    """A graph input of the same name, type and shape, read by `users` in place of `value`."""
    given = ir.Value(name=value.name, shape=value.shape, type=value.type)
    value.name = f"{value.name}.cut"
    for user in users:
        for position, one in enumerate(user.inputs):
            if one is value:
                user.replace_input_with(position, given)
    return given
