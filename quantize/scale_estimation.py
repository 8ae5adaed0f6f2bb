"""NNCF's scale estimation on each weight alone: scales by what the weight is multiplied by.

`nncf.compress_weights` walks a whole ONNX or OpenVINO model, and stumbles over tied embeddings on the way; its
algorithm looks at one weight and the means of its inputs, so it is called with those. Weights of 8 bits are left to
least squares, as NNCF leaves them out.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.decoder import LayerCall, first_layer_calls, linear_modules
from quantize.grid import GridWeight, fit, grouped, half_scales
from quantize.layerwise import as_rows
from quantize.recipe import ClipPlan, ScalePlan
from quantize.scheme import Scheme
from quantize.walk import GROUPS, walk

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


def estimate_layers(
    decoder: Any, tokens: "torch.Tensor", schemes: Mapping[str, Scheme], plan: ScalePlan, progress: Progress
) -> dict[str, GridWeight]:
    """Every linear weight of a float decoder on its grid, first layer first.

    Args:
        decoder: the float decoder; not changed.
        tokens: [sequences, tokens] to look at.
        schemes: format of each weight by name.
        plan: of the estimation.
        progress: called with (weights done, weights in all).
    """
    found: dict[str, GridWeight] = {}
    calls = first_layer_calls(decoder, tokens[: plan.sequences])
    for index, layer in enumerate(decoder.model.layers):
        modules = linear_modules(layer)
        walks = [walk(layer, call) for call in calls]
        for names in GROUPS:
            means = sample_means([as_rows(next(one).hidden) for one in walks], plan.averaged)
            for short in names:
                name = f"model.layers.{index}.{short}.weight"
                found[name] = estimate(modules[f"{short}.weight"].weight.data, schemes[name], means, plan)
                progress(len(found), len(schemes))
        calls = [LayerCall(next(one).hidden, call.keywords) for one, call in zip(walks, calls, strict=True)]
    return found


def sample_means(inputs: "list[torch.Tensor]", averaged: int) -> "torch.Tensor":
    """[samples, in]: means of `averaged` neighbouring rows of inputs [rows, in]; of fewer at an end."""
    import torch

    return torch.stack([part.mean(0) for rows in inputs for part in torch.split(rows, averaged)])


def estimate(weight: "torch.Tensor", scheme: Scheme, means: "torch.Tensor", plan: ScalePlan) -> GridWeight:
    """Weight [out, in] on the scheme's grid; `means` [samples, in] are of its inputs."""
    import torch

    if scheme.bits == 8:
        return fit(weight, scheme, ClipPlan())
    scale, zero = (torch.from_numpy(part) for part in nncf_parameters(weight, scheme, means, plan))
    values = grouped(weight, scheme)
    scale = half_scales(scale.reshape(*values.shape[:2], 1))
    return GridWeight(values / scale, scale, zero.reshape(*values.shape[:2], 1), scheme)


def nncf_parameters(weight: "torch.Tensor", scheme: Scheme, means: "torch.Tensor", plan: ScalePlan) -> tuple[Any, Any]:
    """(scales, zero points) [out * groups] float32 as NNCF estimates them."""
    from nncf import CompressWeightsMode
    from nncf.common.tensor_statistics.statistics import WCTensorStatistic
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.scale_estimation import ScaleEstimation
    from nncf.tensor import Tensor

    mode = CompressWeightsMode[f"INT{scheme.bits}_{'SYM' if scheme.symmetric else 'ASYM'}"]
    samples = means.numpy()
    statistic = WCTensorStatistic(
        mean_values=[Tensor(row) for row in samples],
        shape_values=[(1, plan.averaged, samples.shape[1])] * len(samples),
    )
    scale, zero = ScaleEstimation.calculate_quantization_params(
        statistic,
        Tensor(weight.numpy()),
        (1,),
        WeightCompressionConfig(mode=mode, group_size=scheme.group_size),
        subset_size=plan.samples,
        initial_steps=plan.initial_steps,
        scale_steps=plan.scale_steps,
    )
    scales = scale.as_numpy_tensor().data.reshape(-1).astype(np.float32)
    if zero is None:
        return scales, np.zeros_like(scales)
    return scales, zero.as_numpy_tensor().data.reshape(-1).astype(np.float32)
