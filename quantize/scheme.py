"""Quantization schemes: what is done to the weights, as data with a name.

The names follow the grammar of `targets.legality`, decoded:

    w8-sym            8-bit weights, symmetric, one scale per output channel
    w8-asym           8-bit weights with a zero point per output channel
    w4-sym-g64        4-bit weights, symmetric, one scale per 64 consecutive input channels
    w4-asym-cw        4-bit weights with a zero point, one scale per output channel ("channel-wise")

A weight whose input channels the group size does not divide is channel-wise: `w4-sym-g128` of a model with 576
features and 1536 inside its feed-forward has groups in the down projections alone.

Activations stay in floating point in every scheme. The embedding table and the head of a 4-bit scheme are 8-bit
with the same symmetry: they are a fifth of a small model's bytes and most of its loss.
"""

from dataclasses import dataclass, replace

from targets import legality
from targets.errors import UsageError
from targets.legality import CHANNEL_WISE, LEGALITY, legal_schemes
from targets.names import suggestion


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
        """The scheme in the grammar of `targets.legality`."""
        return legality.scheme_name(self.bits, self.symmetric, self.group_size)

    @property
    def precision(self) -> str:
        """`int8` or `int4`: the class whose gates judge this scheme."""
        return legality.precision_of(self.name)

    @property
    def embedding(self) -> "Scheme":
        """The scheme of the embedding table and the head."""
        return Scheme(8, self.symmetric)

    def for_inputs(self, in_channels: int) -> "Scheme":
        """This scheme for a weight of so many input channels: channel-wise where its groups do not divide them.

        No runtime of ours stores a last group that is shorter than the others.
        """
        if self.group_size == CHANNEL_WISE or in_channels % self.group_size == 0:
            return self
        return replace(self, group_size=CHANNEL_WISE)


def known_schemes() -> tuple[str, ...]:
    """Every scheme that some device takes."""
    return tuple(sorted({name for table in LEGALITY for name in legal_schemes(table)}))


def parse_scheme(name: str) -> Scheme:
    """The scheme called `name`.

    Raises:
        UsageError: the name is not of the grammar; the help line gives the nearest one.
    """
    try:
        return Scheme(*legality.parse_scheme(name))
    except UsageError as error:
        raise UsageError(f"unknown scheme '{name}'", suggestion(name, known_schemes())) from error
