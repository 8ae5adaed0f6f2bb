import dataclasses
from pathlib import Path

import pytest
import torch

from export.model import Model
from quantize.calibrated import CalibratedInputs, predictions, quantize_decoder
from quantize.decoder import linear_modules, load_decoder
from quantize.distill import MARGIN, Text, backward, distill, drawing_order, schedule
from quantize.grid import code_range, fit
from quantize.recipe import ClipPlan, DistillPlan, Recipe
from quantize.scheme import parse_scheme
from tests.conftest import VARIANTS, Models
from tests.tiny_calibration import ignore, tiny_calibration

SCHEME = parse_scheme("w4-sym-cw")
PLAN = DistillPlan(steps=40, batch=4, code_rate=0.02, scale_rate=0.002)


def text_of(model: Model, folder: Path) -> Text:
    tokens = torch.from_numpy(tiny_calibration(model, folder).load())
    return Text(tokens, *predictions(load_decoder(model.folder), tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_brings_the_distributions_nearer(tiny_models: Models, variant: str, tmp_path: Path) -> None:
    model = tiny_models[variant]
    text = text_of(model, tmp_path / "calibration")
    decoder = load_decoder(model.folder)
    start = {name: fit(module.weight.data, SCHEME, ClipPlan()) for name, module in linear_modules(decoder).items()}

    def kl(placed: dict[str, torch.Tensor]) -> float:
        fresh = load_decoder(model.folder)
        for name, module in linear_modules(fresh).items():
            module.weight.data.copy_(placed[name])
            module.weight.requires_grad_(True)
        return backward(fresh, text.tokens, text.hidden.float(), text.head.float())

    end = distill(decoder, start, text, PLAN, ignore)
    before, after = (kl({name: one.weight() for name, one in found.items()}) for found in (start, end))
    assert after < 0.8 * before
    for name, one in end.items():
        lowest, highest = code_range(SCHEME)
        assert lowest <= float(one.codes().min()) <= float(one.codes().max()) <= highest
        assert one.position.abs().max() <= highest + 1 + MARGIN
        assert torch.equal(one.scale, one.scale.half().float())
        assert not torch.equal(one.codes(), start[name].codes())


def test_the_gradient_is_that_of_the_mean_divergence(tiny_model: Model, tmp_path: Path) -> None:
    text = text_of(tiny_model, tmp_path / "calibration")
    tokens, hidden, head = text.tokens[:2], text.hidden[:2].float(), text.head.float()
    decoder = load_decoder(tiny_model.folder)
    module = linear_modules(decoder)["model.layers.0.mlp.up_proj.weight"]
    module.weight.data.mul_(1.3)
    module.weight.requires_grad_(True)
    value = backward(decoder, tokens, hidden, head)
    found = module.weight.grad.clone()
    module.weight.grad = None
    log_probs = decoder(tokens, use_cache=False).logits.log_softmax(-1)
    goal = torch.nn.functional.linear(hidden, head).log_softmax(-1)
    loss = (goal.exp() * (goal - log_probs)).sum(-1).mean()
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-4)
    torch.testing.assert_close(found, module.weight.grad, rtol=1e-3, atol=1e-7)


def test_the_same_twice_and_other_with_another_seed(tiny_model: Model, tmp_path: Path) -> None:
    inputs = CalibratedInputs(tiny_model, tiny_calibration(tiny_model, tmp_path / "calibration"))
    from quantize.nearest import quantize_weight

    table = load_decoder(tiny_model.folder).get_input_embeddings().weight.numpy()
    tables = {"model.embed_tokens.weight": quantize_weight(table, SCHEME.embedding)}

    def digests(seed: int) -> dict[str, str]:
        recipe = Recipe("w4-sym-cw", tuning=DistillPlan(steps=6, seed=seed))
        found = quantize_decoder(recipe, inputs, tables, ignore).weights
        return {name: one.quantized().digest() for name, one in found.items()}

    assert digests(1) == digests(1)
    assert digests(1) != digests(2)


def test_every_sequence_is_drawn_before_any_comes_again() -> None:
    plan = dataclasses.replace(PLAN, steps=5, batch=4)
    order = drawing_order(8, plan).tolist()
    assert len(order) >= 20
    assert sorted(order[:8]) == sorted(order[8:16]) == list(range(8))
    assert order[:8] != order[8:16]
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] < rates[4] > rates[50] > rates[99] >= 0.05
