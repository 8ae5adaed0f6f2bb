"""Hostile folders: code, pickles, links, and what a configuration or a tokenizer may ask for."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

from tests.hostile_base import CONFIG, Cases, Damage, edit, sparse, write


class Payload:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/tapeout-was-here",)


def only(name: str) -> Damage:
    """The weights in this one form only, a pickle that runs a command."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Payload()))

    return damage


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def weights_are_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def many_files(folder: Path) -> None:
    for number in range(10_100):
        (folder / f"{number}.txt").touch()


def config_text(text: str) -> Damage:
    return write("config.json", text)


def tokenizer(**changes: Any) -> Damage:
    """Change the model inside tokenizer.json."""

    def damage(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_text())
        found["model"] |= changes
        path.write_text(json.dumps(found))

    return damage


def token_beyond_the_embedding(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"]["zz"] = CONFIG["vocab_size"] + 5
    path.write_text(json.dumps(found))


def onnx_with_external_data(folder: Path) -> None:
    """CVE-2022-25882, CVE-2024-27318: the data of a tensor are looked for outside the folder."""
    import onnx

    tensor = onnx.TensorProto(name="w", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    tensor.external_data.add(key="__class__", value="x")
    graph = onnx.GraphProto(name="g", initializer=[tensor])
    (folder / "model.safetensors").unlink()
    (folder / "model.onnx").write_bytes(onnx.ModelProto(ir_version=10, graph=graph).SerializeToString())


def numbers(count: int) -> str:
    return '{"a":[' + ",".join("[]" for _ in range(count)) + "]}"


CODE = "is a program"
RUNS = "which runs code"
CASES: Cases = {
    "Python beside the weights (trust_remote_code)": (write("modeling_llama.py", "import os"), CODE),
    "shared library in a subfolder": (write("kernels/a.SO", b"\x7fELF"), CODE),
    "shell script": (write("setup.sh", "#!/bin/sh\n"), CODE),
    "pickle .bin (CVE-2025-32434)": (only("pytorch_model.bin"), "can run code"),
    "pickle .pt": (only("model.pt"), "can run code"),
    "pickle .pkl": (only("model.PKL"), "can run code"),
    "Keras file": (only("model.keras"), "can run code"),
    "ONNX with external data outside": (onnx_with_external_data, "no model.safetensors"),
    "weights are a symbolic link": (link("model.safetensors", "/etc/passwd"), "a link"),
    "configuration is a symbolic link": (link("config.json", "/proc/self/environ"), "a link"),
    "symbolic link to a folder": (link("sub", "/"), "a link"),
    "link to itself": (link("loop", "loop"), "a link"),
    "named pipe": (lambda folder: os.mkfifo(folder / "README.md"), "a link or a device"),
    "weights are a folder": (weights_are_a_folder, "no model.safetensors"),
    "10,100 files": (many_files, "more than 10000"),
    "auto_map": (edit("config.json", auto_map={"AutoModel": "x--y.Model"}), RUNS),
    "trust_remote_code": (edit("config.json", trust_remote_code=True), RUNS),
    "custom_generate": (edit("generation_config.json", custom_generate="o/r"), RUNS),
    "custom_pipelines": (edit("config.json", custom_pipelines={"x": {}}), RUNS),
    "model_file (CVE-2026-5843)": (edit("config.json", model_file="m.py"), RUNS),
    "plugins": (edit("config.json", plugins=["a"]), RUNS),
    "_target_ (CVE-2025-23304)": (edit("tokenizer_config.json", deep=[{"x": {"_target_": "os.system"}}]), RUNS),
    "attention from a hub": (edit("config.json", _attn_implementation="owner/kernel"), "attention"),
    "activation of another name": (edit("config.json", hidden_act="__import__"), "hidden_act"),
    "dtype of another name": (edit("config.json", torch_dtype="load"), "dtype"),
    "2^24 layers": (edit("config.json", num_hidden_layers=1 << 24), "num_hidden_layers"),
    "negative heads": (edit("config.json", num_attention_heads=-4), "num_attention_heads"),
    "vocabulary of 10^12": (edit("config.json", vocab_size=10**12), "vocab_size"),
    "sizes as text": (edit("config.json", hidden_size="32"), "hidden_size"),
    "sizes as truth values": (edit("config.json", num_key_value_heads=True), "num_key_value_heads"),
    "head size as a list": (edit("config.json", head_dim=[8]), "head_dim"),
    "epsilon as text": (edit("config.json", rms_norm_eps="1e-5"), "rms_norm_eps"),
    "negative rotary base": (edit("config.json", rope_theta=-1.0), "rope_theta"),
    "rotary factor of zero": (edit("config.json", rope_scaling={"rope_type": "linear", "factor": 0}), "factor"),
    "rotary base beyond float (1e400)": (config_text('{"rope_theta": 1e400}'), "not sound JSON"),
    "NaN in config.json": (config_text('{"rope_theta": NaN}'), "not a number"),
    "key twice in config.json": (config_text('{"vocab_size": 1, "vocab_size": 2}'), "appears twice"),
    "config.json 100,000 levels deep": (config_text('{"a":' * 100_000 + "1" + "}" * 100_000), "too deep"),
    "config.json is a list": (config_text("[]"), "not a JSON object"),
    "config.json with a lone surrogate": (config_text('{"architectures": ["\\ud800"]}'), "architecture"),
    "config.json of 1 TB": (sparse("config.json", 1 << 40), "larger than"),
    "README.md of 1 TB": (sparse("README.md", 1 << 40), "larger than"),
    "another architecture": (edit("config.json", architectures=["EvilForCausalLM"]), "EvilForCausalLM"),
    "architecture with an escape sequence": (edit("config.json", architectures=["\x1b[2J\u202e"]), "architecture"),
    "quantized already": (edit("config.json", quantization_config={"quant_method": "x"}), "quantized"),
    "tokenizer of a million lists": (write("tokenizer.json", numbers(6_000_000)), "values"),
    "tokenizer 100,000 levels deep": (write("tokenizer.json", '{"a":' * 100_000 + "1" + "}" * 100_000), "too deep"),
    "tokenizer of another kind": (tokenizer(type="WordPiece"), "not a BPE"),
    "merges of pieces that are not there": (tokenizer(merges=["q\u00e9 zz"]), "cannot be loaded"),
    "vocabulary of the wrong type": (tokenizer(vocab=[1, 2]), "cannot be loaded"),
    "token id of 2^40": (tokenizer(vocab={"a": 1 << 40}), "cannot be loaded"),
    "token beyond the embedding": (token_beyond_the_embedding, "embedding"),
}
