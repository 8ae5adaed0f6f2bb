"""Quantization schemes: what is done to the weights, as data with a name.

The name grammar, decoded:

    w8-sym            8-bit weights, symmetric, one scale per output channel
    w8-asym           8-bit weights with a zero point per output channel
    w4-sym-g64        4-bit weights, symmetric, one scale per 64 consecutive input channels (32, 64, 128)
    w4-asym-cw        4-bit weights with a zero point, one scale per output channel ("channel-wise")

Activations stay in floating point in every scheme. The embedding table and the head of a 4-bit scheme are 8-bit
with the same symmetry: they are a fifth of a small model's bytes and most of its loss.
"""

import re
from dataclasses import dataclass

from targets.errors import UsageError
from targets.names import suggestion

GROUP_SIZES = (32, 64, 128)
CHANNEL_WISE = 0


@dataclass(frozen=True)
class Scheme:
    """How weights are stored.

    Attributes:
        bits: 4 or 8, of every linear weight of the decoder layers.
        symmetric: zero maps to code zero; no zero points are stored.
        group_size: input channels that share a scale; `CHANNEL_WISE` for one scale per output channel.
    """

    bits: int
    symmetric: bool
    group_size: int = CHANNEL_WISE

    @property
    def name(self) -> str:
        """The scheme in the grammar of this module."""
        symmetry = "sym" if self.symmetric else "asym"
        if self.bits == 8:
            return f"w8-{symmetry}"
        return f"w4-{symmetry}-{'cw' if self.group_size == CHANNEL_WISE else f'g{self.group_size}'}"

    @property
    def precision(self) -> str:
        """`int8` or `int4`: the class whose gates judge this scheme."""
        return f"int{self.bits}"

    @property
    def embedding(self) -> "Scheme":
        """The scheme of the embedding table and the head."""
        return Scheme(8, self.symmetric)


def known_schemes() -> tuple[str, ...]:
    """Every name of the grammar."""
    four = [Scheme(4, symmetric, group) for symmetric in (True, False) for group in (*GROUP_SIZES, CHANNEL_WISE)]
    return tuple(scheme.name for scheme in (*four, Scheme(8, True), Scheme(8, False)))


def parse_scheme(name: str) -> Scheme:
    """The scheme called `name`.

    Raises:
        UsageError: the name is not of the grammar; the help line gives the nearest one.
    """
    if name not in known_schemes():
        raise UsageError(f"unknown scheme '{name}'", suggestion(name, known_schemes()))
    found = re.fullmatch(r"w([48])-(a?sym)(?:-(cw|g\d+))?", name)
    if found is None:  # the list of known names and this pattern are two spellings of one grammar
        raise UsageError(f"scheme '{name}' does not follow the grammar", suggestion(name, known_schemes()))
    group = found[3]
    return Scheme(int(found[1]), found[2] == "sym", int(group[1:]) if group and group != "cw" else CHANNEL_WISE)
