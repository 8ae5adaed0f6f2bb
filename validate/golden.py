"""The golden reference: what the float model says on a fixed token set, small enough to travel with the bundle."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.hub import OnnxModel, open_hub
from export.parity import HubSession
from targets.errors import InputRefused
from validate.chat import render_prompt
from validate.fidelity import Reference, compact
from validate.golden_text import prompts, text_digest, texts
from validate.plans import GoldenPlan

ARRAYS = "golden.npz"
ANSWERS = "answers.json"
LONG = "long.npz"
STEP = 128  # tokens read at a time: the logits of a whole window would take as much memory as a small model

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GoldenAnswer:
    """The float model's greedy answer: what is asked, the prompt's ids, the answer's ids and text."""

    user: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer: str


@dataclass(frozen=True)
class Golden:
    """A folder with the reference of one model.

    Attributes:
        folder: `golden.npz`, `answers.json` and, where there is a long text, `long.npz`.
        plan: how much it holds.
        text_digest: SHA-256 of the text and the prompts.
        perplexity: of the float model on the windows.
        positions: windows times tokens.
        long_positions: of the long text that are compared; 0 without one.
    """

    folder: Path
    plan: GoldenPlan
    text_digest: str
    perplexity: float
    positions: int
    long_positions: int = 0

    def windows(self) -> list[tuple[NDArray[np.int64], Reference]]:
        """Each window's tokens [window_tokens] and its reference."""
        return read_arrays(self.folder / ARRAYS, self.plan.top)

    def long(self) -> tuple[NDArray[np.int64], Reference] | None:
        """The long text's tokens [n] and the reference of its last `long_positions`, or None when there is none."""
        return read_arrays(self.folder / LONG, self.plan.top)[0] if self.long_positions else None

    def answers(self) -> list[GoldenAnswer]:
        """The greedy answers."""
        stored = json.loads((self.folder / ANSWERS).read_text(encoding="utf-8"))
        return [
            GoldenAnswer(row["user"], tuple(row["prompt_ids"]), tuple(row["answer_ids"]), row["answer"])
            for row in stored
        ]


def measure_golden(hub: OnnxModel, plan: GoldenPlan, out: Path, progress: Progress) -> Golden:
    """Run the float hub over the golden text and prompts and write the reference to `out`.

    Raises:
        InputRefused: a text is shorter than a window under this model's tokenizer.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(hub.folder / "tokenizer.json"))
    session = open_hub(hub)
    rng = np.random.default_rng(plan.seed)
    tokens = window_tokens(tokenizer, plan)
    total = plan.windows + plan.prompts + 1
    references = []
    for index, window in enumerate(tokens):
        references.append(read_reference(session, window, 0, fitting(plan, hub.facts.vocab_size), rng))
        progress(index + 1, total)
    write_arrays(out / ARRAYS, tokens, references, hub.facts.vocab_size)
    answers = []
    for index, user in enumerate(prompts()[: plan.prompts]):
        answers.append(answer_greedily(session, tokenizer, hub.folder, user, plan.answer_tokens))
        progress(plan.windows + index + 1, total)
    long_positions = measure_long(session, tokenizer, hub, plan, out)
    progress(total, total)
    (out / ANSWERS).write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    loss = np.mean([-reference.target_log_probs[:-1].mean(dtype=np.float64) for reference in references])
    return Golden(out, plan, text_digest(), float(np.exp(loss)), int(tokens.size), long_positions)


def measure_long(session: HubSession, tokenizer: Any, hub: OnnxModel, plan: GoldenPlan, out: Path) -> int:
    """Write the reference of the long text's positions after `plan.long_after`.

    Returns:
        How many there are: 0 when the plan, the model's context or the text has no room for any.
    """
    tokens = long_text(tokenizer, plan)[: min(plan.long_tokens, hub.facts.max_positions)]
    positions = len(tokens) - plan.long_after
    if positions < 1:
        return 0
    rng = np.random.default_rng((plan.seed, plan.long_tokens))
    reference = read_reference(session, tokens, plan.long_after, fitting(plan, hub.facts.vocab_size), rng)
    write_arrays(out / LONG, tokens[None], [reference], hub.facts.vocab_size)
    return positions


def fitting(plan: GoldenPlan, vocab_size: int) -> GoldenPlan:
    """The plan with something left to sample beside its top, however small the vocabulary."""
    return replace(plan, top=min(plan.top, vocab_size - 1))


def read_reference(
    session: HubSession, tokens: NDArray[np.int64], after: int, plan: GoldenPlan, rng: np.random.Generator
) -> Reference:
    """Read tokens [n] as a new sequence; the reference of the positions from `after` on."""
    session.reset()
    targets = np.append(tokens[1:], -1)
    parts = []
    for start in range(0, len(tokens), STEP):
        logits = session.step(tokens[None, start : start + STEP])[0][max(after - start, 0) :]
        if len(logits):
            end = min(start + STEP, len(tokens))
            parts.append(compact(logits, targets[end - len(logits) : end], plan.top, plan.sampled, rng))
    return Reference.join(parts)


def long_text(tokenizer: Any, plan: GoldenPlan) -> NDArray[np.int64]:
    """[n] ids of the golden texts that are no window, then of those that are, one after the other."""
    passages = [*texts()[plan.windows :], *texts()[: plan.windows]]
    return np.array(tokenizer.encode("\n\n".join(passages), add_special_tokens=False).ids, dtype=np.int64)


def read_arrays(path: Path, top: int) -> list[tuple[NDArray[np.int64], Reference]]:
    """Each text's tokens [n] and the reference of its last positions, as many as are stored."""
    with np.load(path, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    result = []
    for index, tokens in enumerate(stored["tokens"].astype(np.int64)):
        row = {name: stored[name][index] for name in stored if name != "tokens"}
        ids = row["ids"].astype(np.int64)
        targets = np.append(tokens[1:], -1)[len(tokens) - len(ids) :]
        reference = Reference(ids, row["log_probs"], row["tail_mass"], targets, row["target_log_probs"], top)
        result.append((tokens, reference))
    return result


def window_tokens(tokenizer: Any, plan: GoldenPlan) -> NDArray[np.int64]:
    """[windows, window_tokens] token ids; no token is added in front."""
    rows = []
    for text in texts()[: plan.windows]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: plan.window_tokens]
        if len(ids) < plan.window_tokens:
            raise InputRefused(
                f"a golden text has {len(ids)} tokens under this tokenizer, less than a window of {plan.window_tokens}",
                "choose a smaller window",
            )
        rows.append(ids)
    return np.array(rows, dtype=np.int64)


def write_arrays(path: Path, tokens: NDArray[np.int64], references: list[Reference], vocab_size: int) -> None:
    """Store the references in the narrowest types that hold them."""
    narrow = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    arrays: dict[str, NDArray[Any]] = {
        "tokens": tokens.astype(narrow),
        "ids": np.stack([reference.ids for reference in references]).astype(narrow),
        "log_probs": np.stack([reference.log_probs for reference in references]),
        "tail_mass": np.stack([reference.tail_mass for reference in references]),
        "target_log_probs": np.stack([reference.target_log_probs for reference in references]),
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def answer_greedily(session: HubSession, tokenizer: Any, folder: Path, user: str, limit: int) -> dict[str, Any]:
    """The float model's greedy answer to one request, as a row of `answers.json`."""
    prompt = render_prompt(folder, user)
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    stops = end_tokens(folder)
    session.reset()
    answer: list[int] = []
    step = np.array([ids], dtype=np.int64)
    while len(answer) < limit:
        token = int(session.step(step)[0, -1].argmax())
        if token in stops:
            break
        answer.append(token)
        step = np.array([[token]], dtype=np.int64)
    return {"user": user, "prompt_ids": ids, "answer_ids": answer, "answer": tokenizer.decode(answer)}


def end_tokens(folder: Path) -> frozenset[int]:
    """The ids that end an answer, from generation_config.json."""
    ids = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])
