"""Round weights to a scheme's grid with NNCF, one at a time.

`nncf.compress_weights` walks and copies the whole model it is given: 27 s and 4.3 GB for 135 million parameters.
Data-free compression looks at each weight alone, so its rounding is called on each weight alone; a test holds the
result against `compress_weights` on the same weights.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from quantize.scheme import Scheme
from quantize.weight import QuantizedWeight


def quantize_weight(weight: NDArray[np.float32], scheme: Scheme) -> QuantizedWeight:
    """Round weight [out, in] float32 to the scheme's grid; the group size must divide `in`."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    from nncf import CompressWeightsMode
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.weight_lowering import compress_weight
    from nncf.tensor import Tensor

    mode = CompressWeightsMode[f"INT{scheme.bits}_{'SYM' if scheme.symmetric else 'ASYM'}"]
    # NNCF, too, calls a whole channel -1.
    config = WeightCompressionConfig(mode=mode, group_size=scheme.group_size)
    rounded = compress_weight(Tensor(weight), (1,), config)
    out_channels = weight.shape[0]
    codes = rounded.tensor.as_numpy_tensor().data.reshape(weight.shape).astype(np.int16)
    scales = rounded.scale.as_numpy_tensor().data.reshape(out_channels, -1).astype(np.float32)
    zero_points = None
    if rounded.zero_point is not None:
        zero_points = rounded.zero_point.as_numpy_tensor().data.reshape(out_channels, -1).astype(np.int16)
        codes = codes - np.repeat(zero_points, weight.shape[1] // zero_points.shape[1], axis=1)
    return QuantizedWeight(codes, scales, zero_points, scheme.bits)
