"""The tokenizer fields of a GGUF file, read and checked: pieces, their kinds, merges, special ids, chat template."""

from dataclasses import dataclass

from export.folder_listing import MAX_TEMPLATE
from export.gguf_cursor import refuse
from export.gguf_fields import array, optional
from export.gguf_pretokenizers import PRE_TOKENIZERS
from export.gguf_reader import GgufModel
from targets.errors import InputRefused

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
MAX_TOKENS = 1 << 20
MAX_TOKEN_LENGTH = 4096
# Tokens that end a turn of a chat, by the names their models give them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about its tokenizer.

    Attributes:
        kind: `gpt2` (byte-level BPE) or `llama` (scored pieces of SentencePiece).
        pre: name of the pre-tokenizer, for `gpt2` only.
        tokens: the text of each id.
        types: ggml's token kind of each id, 1 to 6.
        merges: pairs of pieces, the first to be merged first; empty for `llama`.
        scores: of each id, higher merges first; empty for `gpt2`.
        special: ids by role: bos, eos, unk, pad.
        stops: ids that end an answer, eos first.
    """

    kind: str
    pre: str | None
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    special: dict[str, int]
    stops: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    space_prefix: bool
    chat_template: str | None


def read_vocabulary(gguf: GgufModel) -> Vocabulary:
    """The tokenizer of `gguf`.

    Raises:
        InputRefused: a field is missing or contradicts another, or the kind of tokenizer is not known here.
    """
    kind = _known_kind(gguf)
    pre = _known_pre(gguf) if kind == BYTE_LEVEL else None
    tokens = _tokens(gguf)
    types = array(gguf, "tokenizer.ggml.token_type", int) or (NORMAL,) * len(tokens)
    scores = array(gguf, "tokenizer.ggml.scores", float) if kind == SENTENCEPIECE else ()
    if len(types) != len(tokens) or (kind == SENTENCEPIECE and len(scores) != len(tokens)):
        raise refuse(gguf.path, "its token types or scores are not as many as its tokens")
    special = _special_ids(gguf, kind, len(tokens))
    template = optional(gguf, "tokenizer.chat_template", str)
    if template is not None and len(template.encode()) > MAX_TEMPLATE:
        raise InputRefused(
            f"{gguf.path} has a chat template beyond {MAX_TEMPLATE} bytes", "use a model with a plain one"
        )
    return Vocabulary(
        kind=kind,
        pre=pre,
        tokens=tokens,
        types=types,
        merges=_merges(gguf, set(tokens)) if kind == BYTE_LEVEL else (),
        scores=scores,
        special=special,
        stops=_stops(gguf, tokens, special["eos"], template or ""),
        add_bos=_adds(gguf, "bos", kind == SENTENCEPIECE or pre == "llama-bpe", special),
        add_eos=_adds(gguf, "eos", False, special),
        space_prefix=_or(optional(gguf, "tokenizer.ggml.add_space_prefix", bool), True),
        chat_template=template,
    )


def _known_kind(gguf: GgufModel) -> str:
    kind = optional(gguf, "tokenizer.ggml.model", str)
    if kind in {BYTE_LEVEL, SENTENCEPIECE}:
        return kind
    known = f"'{BYTE_LEVEL}' (byte-level BPE), '{SENTENCEPIECE}' (SentencePiece)"
    raise InputRefused(f"{gguf.path} has a tokenizer of kind '{kind}'", f"known kinds: {known}")


def _known_pre(gguf: GgufModel) -> str:
    pre = optional(gguf, "tokenizer.ggml.pre", str)
    if pre in PRE_TOKENIZERS:
        return pre
    # A guessed pre-tokenizer gives a model that runs and answers a little worse: nobody would notice.
    fault = f"the pre-tokenizer '{pre}'" if pre else "no pre-tokenizer"
    raise InputRefused(
        f"{gguf.path} names {fault}",
        f"known pre-tokenizers: {', '.join(sorted(PRE_TOKENIZERS))}; or give the model's Hugging Face folder",
    )


def _tokens(gguf: GgufModel) -> tuple[str, ...]:
    tokens = array(gguf, "tokenizer.ggml.tokens", str)
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise refuse(gguf.path, f"it has {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens):
        raise refuse(gguf.path, "two of its tokens have the same text")
    if max(map(len, tokens)) > MAX_TOKEN_LENGTH:
        raise refuse(gguf.path, f"a token is longer than {MAX_TOKEN_LENGTH} characters")
    return tokens


def _merges(gguf: GgufModel, tokens: set[str]) -> tuple[tuple[str, str], ...]:
    merges = []
    for text in array(gguf, "tokenizer.ggml.merges", str):
        left, _, right = text.partition(" ")
        if left not in tokens or right not in tokens or left + right not in tokens:
            raise refuse(gguf.path, f"the merge {text!r} is not of two tokens into a third")
        merges.append((left, right))
    return tuple(merges)


def _special_ids(gguf: GgufModel, kind: str, n_tokens: int) -> dict[str, int]:
    # llama.cpp assumes these for SentencePiece files that do not say.
    special = {"unk": 0, "bos": 1, "eos": 2} if kind == SENTENCEPIECE else {}
    for role, field in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        named = optional(gguf, f"tokenizer.ggml.{field}_token_id", int)
        special |= {} if named is None else {role: named}
    for role, token in special.items():
        if not 0 <= token < n_tokens:
            raise refuse(gguf.path, f"its {role} token {token} is not among its {n_tokens} tokens")
    if "eos" not in special:
        raise InputRefused(f"{gguf.path} does not say which token ends a text", "set tokenizer.ggml.eos_token_id")
    return special


def _stops(gguf: GgufModel, tokens: tuple[str, ...], eos: int, template: str) -> tuple[int, ...]:
    """The end of text, and the ends of turn that the file names or its chat template writes."""
    named = [optional(gguf, f"tokenizer.ggml.{field}_token_id", int) for field in ("eot", "eom")]
    stops = [eos, *(token for token in named if token is not None and 0 <= token < len(tokens))]
    stops += [tokens.index(end) for end in TURN_ENDS if end in template and end in tokens]
    return tuple(dict.fromkeys(stops))


def _adds(gguf: GgufModel, role: str, default: bool, special: dict[str, int]) -> bool:
    adds = _or(optional(gguf, f"tokenizer.ggml.add_{role}_token", bool), default)
    if adds and role not in special:
        raise refuse(gguf.path, f"it asks for a {role} token and names none")
    return adds


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value
