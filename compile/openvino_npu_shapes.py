"""The static shapes an NPU runs a language model at, and how NPUW is told of them."""

from collections.abc import Mapping

from targets.errors import InputRefused

# OpenVINO GenAI's own defaults, in tokens. NPUW rounds both up to a multiple of STEP.
PROMPT_TOKENS = 1024
RESPONSE_TOKENS = 128
STEP = 64


def static_shapes(max_positions: int) -> dict[str, int]:
    """Tokens of the longest prompt and of the shortest room for an answer that fit a model's context.

    Raises:
        InputRefused: not even one step of each fits.
    """
    response = min(RESPONSE_TOKENS, max_positions // 2) // STEP * STEP
    prompt = min(PROMPT_TOKENS, max_positions - response) // STEP * STEP
    if not response or not prompt:
        raise InputRefused(
            f"a context of {max_positions} tokens is too short for the NPU's static shapes",
            f"choose a model with a context of at least {2 * STEP} tokens",
        )
    return {"MAX_PROMPT_LEN": prompt, "MIN_RESPONSE_LEN": response}


def npuw_properties(shapes: Mapping[str, int], device: str = "NPU") -> dict[str, str]:
    """What OpenVINO GenAI makes of the pipeline's properties before it calls the plugin.

    Args:
        shapes: as `static_shapes` gives them.
        device: where NPUW runs the parts of the model: `NPU`, or `CPU` to emulate.
    """
    return {
        "NPU_USE_NPUW": "YES",
        "NPUW_LLM": "YES",
        "NPUW_DEVICES": device,
        **{f"NPUW_LLM_{name}": str(tokens) for name, tokens in shapes.items()},
    }
