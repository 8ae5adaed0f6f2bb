"""The merges that a scored SentencePiece vocabulary implies."""

from export.gguf_vocabulary import NORMAL, USER_DEFINED, Vocabulary
from targets.errors import InputRefused

MAX_PIECE_LENGTH = 256


def merges_from_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, the best-scored result first.

    SentencePiece joins whichever neighbours give the best-scored piece; a table of merges says the same by its order.
    Among the ways to one piece the order is that of its parts' scores: SentencePiece takes the leftmost.

    Raises:
        InputRefused: a piece is longer than 256 characters, so that cutting it everywhere would not end soon.
    """
    joinable = {NORMAL, USER_DEFINED}
    rows = zip(vocabulary.tokens, vocabulary.types, vocabulary.scores, strict=True)
    scores = {token: score for token, kind, score in rows if kind in joinable}
    ranked: list[tuple[float, float, float, str, str]] = []
    for piece, score in scores.items():
        if len(piece) > MAX_PIECE_LENGTH:
            raise InputRefused(f"the vocabulary has a piece of {len(piece)} characters", "use a SentencePiece model")
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, -scores[left], -scores[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]
