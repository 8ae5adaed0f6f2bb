"""Rebuild the tokenizer that a GGUF file describes, as the files of a Hugging Face folder.

Special tokens written in a text count as such, as everywhere in Hugging Face tokenizers; whoever must read them as
plain text sets `encode_special_tokens` on the tokenizer.
"""

from pathlib import Path
from typing import Any

from export.gguf_pretokenizers import PRE_TOKENIZERS
from export.gguf_vocabulary import BYTE_LEVEL, CONTROL, UNKNOWN, USER_DEFINED, Vocabulary
from export.sentencepiece_merges import merges_from_scores
from export.strict_json import write_json


def build_tokenizer(vocabulary: Vocabulary) -> Any:
    """The `tokenizers.Tokenizer` of `vocabulary`.

    Raises:
        InputRefused: a piece is too long to derive its merges.
    """
    tokenizer = _byte_level(vocabulary) if vocabulary.kind == BYTE_LEVEL else _sentencepiece(vocabulary)
    _add_tokens(tokenizer, vocabulary)
    return tokenizer


def write_tokenizer(vocabulary: Vocabulary, max_positions: int, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json, generation_config.json and the template.

    Raises:
        InputRefused: a piece is too long to derive its merges.
    """
    build_tokenizer(vocabulary).save(str(folder / "tokenizer.json"), pretty=False)
    tokens = {f"{role}_token": vocabulary.tokens[token] for role, token in vocabulary.special.items()}
    tokens.setdefault("pad_token", tokens["eos_token"])
    settings = {
        **tokens,
        # `token_type_ids`, in the default list, is nothing a decoder takes.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if vocabulary.chat_template is not None:
        settings["chat_template"] = vocabulary.chat_template
        (folder / "chat_template.jinja").write_bytes(vocabulary.chat_template.encode())
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", tokens)
    write_json(folder / "generation_config.json", _generation(vocabulary))


def _generation(vocabulary: Vocabulary) -> dict[str, Any]:
    stops = list(vocabulary.stops)
    return {
        "bos_token_id": vocabulary.special.get("bos"),
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": vocabulary.special.get("pad", stops[0]),
    }


def _byte_level(vocabulary: Vocabulary) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    pre = PRE_TOKENIZERS[str(vocabulary.pre)]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(ids, list(vocabulary.merges), ignore_merges=pre.ignore_merges))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.split()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: Vocabulary) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown = vocabulary.tokens[vocabulary.special["unk"]]
    merges = merges_from_scores(vocabulary)
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix, strip = ([normalizers.Prepend("▁")], [decoders.Strip(" ", 1, 0)]) if vocabulary.space_prefix else ([], [])
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _add_tokens(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Mark the tokens that are matched before any merge, and put the wanted ones around a text."""
    from tokenizers import AddedToken, processors

    typed = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    special = [token for token, kind in typed if kind in {CONTROL, UNKNOWN}]
    plain = [token for token, kind in typed if kind == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])
    around = {
        role: (vocabulary.tokens[vocabulary.special[role]], vocabulary.special[role])
        for role, wanted in (("bos", vocabulary.add_bos), ("eos", vocabulary.add_eos))
        if wanted
    }
    if not around:
        return
    first, last = ([around[role][0]] if role in around else [] for role in ("bos", "eos"))
    pair = [*first, "$A:0", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A:0", *last], pair=pair, special_tokens=list(around.values())
    )
