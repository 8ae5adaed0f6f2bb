"""Convert a Hugging Face tokenizer to OpenVINO's tokenizer and detokenizer IR, in a form the converter gets right."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from compile.openvino_names import name_anonymous_nodes
from export.model import TOKENIZER_FILES

# "Single digits first, then GPT-2's pattern" in one pattern. OpenVINO's tokenizer applies the second split with the
# characters behind a piece in sight, so "\n\n1" becomes "\n", "\n", "1" where the model was trained on "\n\n", "1".
# White space in front of a digit therefore has an alternative of its own.
DIGITS_THEN_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


def write_tokenizers(folder: Path, out: Path) -> None:
    """Write `openvino_tokenizer.xml` and `openvino_detokenizer.xml` for the tokenizer of a Hugging Face folder."""
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        for name in ("config.json", *TOKENIZER_FILES):
            if (folder / name).exists():
                shutil.copyfile(folder / name, Path(scratch) / name)
        path = Path(scratch) / "tokenizer.json"
        description = json.loads(path.read_text(encoding="utf-8"))
        description["pre_tokenizer"] = one_pattern(description.get("pre_tokenizer"))
        path.write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
        hf_tokenizer = AutoTokenizer.from_pretrained(scratch, local_files_only=True, trust_remote_code=False)
        tokenizer, detokenizer = convert_tokenizer(hf_tokenizer, with_detokenizer=True)
    for name, part in (("tokenizer", tokenizer), ("detokenizer", detokenizer)):
        name_anonymous_nodes(part)
        ov.save_model(part, out / f"openvino_{name}.xml")


def one_pattern(pre_tokenizer: Any) -> Any:
    """The same pre-tokenizer with `Digits` and `ByteLevel` as one Split; any other comes back as it is."""
    steps = pre_tokenizer.get("pretokenizers", []) if isinstance(pre_tokenizer, dict) else []
    if [step.get("type") for step in steps] != ["Digits", "ByteLevel"]:
        return pre_tokenizer
    digits, byte_level = steps
    if not digits.get("individual_digits") or not byte_level.get("use_regex") or byte_level.get("add_prefix_space"):
        return pre_tokenizer
    split = {"type": "Split", "pattern": {"Regex": DIGITS_THEN_GPT2}, "behavior": "Isolated", "invert": False}
    return {**pre_tokenizer, "pretokenizers": [split, {**byte_level, "use_regex": False}]}
