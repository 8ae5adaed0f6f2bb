"""Runs in AMD Quark's environment: float model and calibration tokens -> a uint4 checkpoint whose numbers AWQ chose.

Arguments: the float model's folder, the tokens ([sequences, tokens], .npy), Quark's names of the scheme of the
layers and of the head's, and the folder to write. AWQ's progress, in seconds a layer, goes to standard error.
"""

import sys
from typing import Any

# Quark's name of it.
ALGORITHM = "awq"


def load(folder: str) -> Any:
    """The float model with a head of its own: tied to the embedding table it could not be quantized alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    return model.eval()


def main() -> None:
    """Load, choose the numbers, write."""
    import numpy as np
    import torch
    from quark.torch import LLMTemplate, ModelQuantizer, export_safetensors
    from torch.utils.data import DataLoader

    folder, tokens, scheme, head_scheme, out = sys.argv[1:]
    model = load(folder)
    config = LLMTemplate.get(model.config.model_type).get_config(
        scheme=scheme, algorithm=ALGORITHM, layer_config={"lm_head": head_scheme}, exclude_layers=[]
    )
    calibration: Any = torch.from_numpy(np.load(tokens, allow_pickle=False).astype(np.int64))
    quantizer = ModelQuantizer(config)
    with torch.no_grad():
        model = quantizer.freeze(quantizer.quantize_model(model, DataLoader(calibration, batch_size=1)))
        export_safetensors(model, out, custom_mode="quark", weight_format="real_quantized", pack_method="reorder")


if __name__ == "__main__":
    main()
