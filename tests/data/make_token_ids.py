"""Freeze the token ids of llama.cpp's own tokenizer, the independent witness of ours.

    python tests/data/make_token_ids.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs llama-cpp-python and gguf; writes smollm2_token_ids.json and tiny_token_ids.json beside itself.
`special` are the ids when special tokens in the text count as such (what Hugging Face tokenizers do),
`plain` when they are read as ordinary text.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.tiny_gguf import Vocabulary, byte_level, sentencepiece, write_vocabulary

TEXTS = (
    "",
    "Hello world",
    "The capital of France is Paris.",
    " leading space",
    "  two leading",
    "    four leading",
    "\n\nnew\n lines\n",
    "tabs\tand\t\tspaces   mixed \r\n end  ",
    "trailing spaces   ",
    "   ",
    "\n",
    " \n \n\n x",
    "3.14159 and 2024-11-21",
    "12345678901234567890",
    "x1y22z333 4444",
    "\xbd \u2167 \u0663\u0664 \xb2",
    "for (int i=0;i<10;i++) { x[i] += 1; }\n\treturn x;\n",
    "def f(x):\n    return x**2\n\n\n\nprint(f(12))",
    "it's I'LL we'Ve don't 'tis",
    "ALLCAPS camelCase snake_case",
    "https://example.com/path?x=1&y=2#z",
    "na\xefve caf\xe9 \xc5ngstr\xf6m d\xe9j\xe0",
    "\u20ac100 \xa350 \xa9",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4e2d\u6587\u5b57\u7b26\u6d4b\u8bd5",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643",
    "\U0001f600\U0001f44d\U0001f3fd ok",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\xa0no\xa0break \u3000wide",
    "\u200bzero width",
    " tapeout tapeout  tapeout",
    "=================\n---------",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b",
    "<|im_start|> <|im_end|>  <repo_name>x",
    "</s> and <s> and <unk>",
    "x <tool> y<tool>",
    "<|im_end",
    "<0x0A>",
    "a" * 40,
)


KEY = "tokenizer.ggml"


def vocabularies() -> dict[str, Vocabulary]:
    """One small vocabulary of each kind; the tests build the same ones."""
    return {
        "smollm": byte_level("smollm"),
        "gpt-2": byte_level("gpt-2"),
        "llama-bpe": byte_level("llama-bpe", {"tokenizer.ggml.add_bos_token": False}),
        "qwen2": byte_level("qwen2"),
        "spm": sentencepiece(),
        "spm-no-prefix": sentencepiece(
            {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
        ),
        "llama-bpe-bos": byte_level(
            "llama-bpe", {"tokenizer.ggml.bos_token_id": byte_level("llama-bpe").index("<|im_start|>")}
        ),
    }


def ids(path: Path) -> list[dict[str, Any]]:
    """What llama.cpp makes of each text."""
    import llama_cpp  # type: ignore[import-not-found,unused-ignore]

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    # add_bos=True asks for what the file says, which may be none.
    return [
        {
            "text": text,
            "special": model.tokenize(text.encode(), add_bos=True, special=True),
            "plain": model.tokenize(text.encode(), add_bos=True, special=False),
        }
        for text in TEXTS
    ]


def record(name: str, cases: object) -> None:
    import llama_cpp

    made_by = (
        f"llama-cpp-python {llama_cpp.__version__}: python tests/data/make_token_ids.py SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    text = json.dumps({"made_by": made_by, "cases": cases}, ensure_ascii=True, indent=None, separators=(",", ":"))
    (Path(__file__).parent / name).write_text(text.replace('{"text"', '\n{"text"') + "\n", encoding="ascii")


def main() -> None:
    record("smollm2_token_ids.json", ids(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.gguf" for name in vocabularies()}
        tiny = {name: ids(write_vocabulary(paths[name], each)) for name, each in vocabularies().items()}
    record("tiny_token_ids.json", tiny)


if __name__ == "__main__":
    main()
