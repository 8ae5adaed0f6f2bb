"""Scale estimation: what NNCF finds for a whole model is found for the weight alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.model import Model
from quantize.decoder import linear_modules, load_decoder
from quantize.grid import fit
from quantize.recipe import NEAREST, ScalePlan
from quantize.scale_estimation import estimate, estimate_layers, sample_means
from quantize.scheme import parse_scheme
from tests.tiny_calibration import ignore, tiny_calibration

PLAN = ScalePlan()


def inputs(samples: int, tokens: int, columns: int) -> torch.Tensor:
    """[samples, tokens, in]; uneven, and not centred, so that their means differ."""
    random = torch.Generator().manual_seed(3)
    return (torch.randn(samples, tokens, columns, generator=random) + 1) * torch.rand(columns, generator=random) ** 3


@pytest.mark.parametrize(("scheme", "group"), [("w4-sym-g32", 32), ("w4-asym-g32", 32), ("w4-sym-cw", -1)])
def test_scales_are_those_of_nncf_through_its_openvino_back_end(scheme: str, group: int) -> None:
    import nncf
    import openvino as ov
    from openvino import opset13 as op

    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(5))
    texts = inputs(12, 9, 64)
    read = op.parameter([1, -1, 64], np.float32)
    product = op.matmul(read, op.constant(weight.numpy(), name="weight"), False, True)
    mode = nncf.CompressWeightsMode.INT4_SYM if "-sym" in scheme else nncf.CompressWeightsMode.INT4_ASYM
    compressed = nncf.compress_weights(
        ov.Model([product], [read]),
        mode=mode,
        group_size=group,
        all_layers=True,
        scale_estimation=True,
        dataset=nncf.Dataset([text[None].numpy() for text in texts]),
    )
    scales = next(
        node.input_value(1).get_node()
        for node in compressed.get_ordered_ops()
        if node.get_type_name() == "Multiply" and node.get_output_shape(0)[0] == 24
    )
    expected = np.asarray(scales.data, np.float32).reshape(24, -1)
    means = sample_means(list(texts), 9)
    found = estimate(weight, parse_scheme(scheme), means, PLAN)
    np.testing.assert_allclose(found.scale[..., 0].numpy(), expected, rtol=2e-3)


def test_outputs_come_nearer_than_by_rounding_to_nearest() -> None:
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(5))
    means = sample_means(list(inputs(24, 8, 64)), 8)
    form = parse_scheme("w4-sym-g32")
    found, plain = estimate(weight, form, means, PLAN), fit(weight, form, NEAREST)
    error, before = (float(((one.weight() - weight) @ means.T).square().sum()) for one in (found, plain))
    assert error < 0.8 * before
    assert np.array_equal(found.scale.numpy(), found.scale.half().float().numpy())


def test_means_are_of_neighbours_and_of_one_text() -> None:
    one, other = torch.arange(10.0).reshape(5, 2), torch.ones(2, 2)
    assert sample_means([one, other], 3).tolist() == [[2.0, 3.0], [7.0, 8.0], [1.0, 1.0]]


def test_all_weights_of_a_decoder_get_scales_and_kept_ones_8_bits(tiny_model: Model, tmp_path: Path) -> None:
    tokens = torch.from_numpy(tiny_calibration(tiny_model, tmp_path / "calibration").load())
    decoder = load_decoder(tiny_model.folder)
    schemes = {name: parse_scheme("w4-sym-g32") for name in linear_modules(decoder)}
    kept = "model.layers.1.mlp.down_proj.weight"
    schemes[kept] = parse_scheme("w8-sym")
    found = estimate_layers(decoder, tokens, schemes, PLAN, ignore)
    assert set(found) == set(schemes)
    assert found[kept].quantized().bits == 8
    for name, module in linear_modules(decoder).items():
        error = float((found[name].weight() - module.weight.data).norm() / module.weight.data.norm())
        assert error < (0.01 if name == kept else 0.2)
