"""How each named pre-tokenizer of GGUF cuts a text into words before byte-level BPE merges inside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PreTokenizer:
    """One way of cutting.

    Attributes:
        split: makes the `tokenizers` pre-tokenizer.
        nfc: the text is composed (Unicode NFC) first.
        ignore_merges: a word that is a token as it stands is not merged up to.
    """

    split: Callable[[], Any]
    nfc: bool = False
    ignore_merges: bool = False


def _gpt2() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _pattern(digits: str) -> Callable[[], Any]:
    """Words, then `digits`, then punctuation and white space, cut by one regular expression."""

    def build() -> Any:
        from tokenizers import Regex, pre_tokenizers

        cut = pre_tokenizers.Split(Regex(f"{_CONTRACTIONS}|{_WORDS}|{digits}|{_REST}"), "isolated")
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return build


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer(_gpt2),
    "smollm": PreTokenizer(_single_digits),
    "llama-bpe": PreTokenizer(_pattern(r"\p{N}{1,3}"), ignore_merges=True),
    "qwen2": PreTokenizer(_pattern(r"\p{N}"), nfc=True),
}
