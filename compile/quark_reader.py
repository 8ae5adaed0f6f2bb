"""Runs in AMD Quark's environment: load a checkpoint with Quark and print a digest of every weight it dequantizes.

Arguments: the checkpoint's folder, and the JSON file to write: name of the weight -> SHA-256 of its float32 values
[out, in], row by row.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any


def load(folder: str) -> Any:
    """The model that config.json describes, with the checkpoint's weights in Quark's own layers."""
    import torch
    from quark.torch import import_model_from_safetensors
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config  # transformers would look for Quark's integration; Quark reads the file itself
    return import_model_from_safetensors(AutoModelForCausalLM.from_config(config, dtype=torch.float32), folder)


def main() -> None:
    """Load, dequantize, write."""
    import torch

    folder, answer = sys.argv[1:]
    digests = {}
    for name, module in load(folder).named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is not None:
            values = quantizer(module.weight.data).to(torch.float32).contiguous().numpy()
            digests[f"{name}.weight"] = hashlib.sha256(values.tobytes()).hexdigest()
    Path(answer).write_text(json.dumps(digests), encoding="utf-8")


if __name__ == "__main__":
    main()
