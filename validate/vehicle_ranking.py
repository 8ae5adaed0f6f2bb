"""The in-vehicle suite by ranking: which of a few calls does the model find most likely after the request?"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.hub import OnnxModel, open_hub
from validate.paired import Paired, compare_paired
from validate.parity_template import render_conversation
from validate.vehicle import Request, options, requests, suite_digest, system_prompt
from validate.vehicle_session import Branches, HubStepping, Stepping, common_beginning, log_likelihoods

RANKING = "vehicle.json"
REFRESH = 16  # requests between two resets: bounds what a session keeps of forgotten tokens
NEVER = 1 << 62  # for a session that truly forgets
RIGHT = 0  # where the right call is among the options

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Question:
    """One request as token ids.

    Attributes:
        id: of the request.
        category: of the request.
        language: of the request.
        prompt: ids after those that all prompts share.
        options: ids of each call, the right one first.
        lengths: bytes of each call.
        scores: natural log of the probability that the float model gives each call.
    """

    id: str
    category: str
    language: str
    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Questionnaire:
    """The suite under one tokenizer, with the float model's answers.

    Attributes:
        digest: of the suite's texts.
        shared: ids that every prompt begins with.
        questions: in the suite's order.
    """

    digest: str
    shared: tuple[int, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class VehicleRanking:
    """How a package ranks the calls, beside the float model.

    Attributes:
        requests: how many were asked; fewer than the suite has where a runtime is slow.
        of: how many the suite has.
        options: calls to choose from, the right one included.
        agreement: share of requests where package and float model prefer the same call.
        paired: right choices, by log-likelihood per byte.
        paired_sum: right choices, by log-likelihood alone, which favours short calls.
        by_category: (requests, right by the float model, right by the package) of each category.
        by_language: the same of each language.
        score_gap: mean absolute difference of the two log-likelihoods of a call, in nats.
    """

    requests: int
    of: int
    options: int
    agreement: float
    paired: Paired
    paired_sum: Paired
    by_category: dict[str, tuple[int, int, int]]
    by_language: dict[str, tuple[int, int, int]]
    score_gap: float


def golden_ranking(hub: OnnxModel, count: int | None, out: Path, progress: Progress) -> Path | None:
    """Let the float hub rank the first `count` requests (None: all) and write `vehicle.json` to `out`.

    None, and no file, when the suite's prompt does not fit the model's context.
    """
    shared, drafts = prepare_questions(hub.folder, count)
    longest = max(len(draft["prompt"]) + max(map(len, draft["options"])) for draft in drafts)
    if len(shared) + longest > hub.facts.max_positions:
        return None
    branches = Branches(HubStepping(open_hub(hub)), NEVER)
    for index, draft in enumerate(drafts):
        branches.start(shared)
        draft["scores"] = [round(score, 5) for score in score_options(branches, draft["prompt"], draft["options"])]
        progress(index + 1, len(drafts))
    path = out / RANKING
    rows = ",\n".join(json.dumps(draft, separators=(",", ":")) for draft in drafts)
    path.write_text(f'{{"digest":"{suite_digest()}","shared":{json.dumps(shared)},"questions":[\n{rows}\n]}}\n')
    return path


def read_questionnaire(path: Path) -> Questionnaire:
    """What `golden_ranking` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    questions = tuple(
        Question(
            id=row["id"],
            category=row["category"],
            language=row["language"],
            prompt=tuple(row["prompt"]),
            options=tuple(tuple(option) for option in row["options"]),
            lengths=tuple(row["lengths"]),
            scores=tuple(row["scores"]),
        )
        for row in stored["questions"]
    )
    return Questionnaire(stored["digest"], tuple(stored["shared"]), questions)


def prepare_questions(folder: Path, count: int | None) -> tuple[list[int], list[dict[str, Any]]]:
    """The ids that all prompts share, and the first `count` requests as rows of `vehicle.json` without their scores."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt_of(folder, each), add_special_tokens=False).ids for each in requests()]
    shared = common_beginning([prompt[:-1] for prompt in prompts])
    drafts = []
    for request, prompt in list(zip(requests(), prompts, strict=True))[:count]:
        texts = options(request)
        drafts.append(
            {
                "id": request.id,
                "category": request.category,
                "language": request.language,
                "prompt": prompt[len(shared) :],
                "options": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts],
                "lengths": [len(text.encode()) for text in texts],
            }
        )
    return shared, drafts


def prompt_of(folder: Path, request: Request) -> str:
    """The prompt of a request, the tools in the system message, or in front of it where the template knows none."""
    joined = f"{system_prompt()}\n\n{request.user}\n"
    system, user = {"role": "system", "content": system_prompt()}, {"role": "user", "content": request.user}
    for messages in ((system, user), ({"role": "user", "content": joined.strip()},)):
        prompt = render_conversation(folder, messages, None)
        if prompt is not None and all(message["content"] in prompt for message in messages):
            return prompt
    return joined


def score_options(branches: Branches, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """Natural log of the probability of each option after what was fed and `prompt`.

    What all options share is fed once, with the prompt; of the rest only what differs.
    """
    start = len(branches.fed)
    common = common_beginning([text[:-1] for text in texts])
    logits = branches.step([*prompt, *common])
    rows = logits[len(prompt) - 1 :]
    shared = log_likelihoods(rows[:-1], common).sum() if common else 0.0
    scores = []
    for text in texts:
        rest = list(text[len(common) :])
        total = float(shared + log_likelihoods(rows[-1:], rest[:1])[0])
        if len(rest) > 1:
            branches.back(start + len(prompt) + len(common))
            total += float(log_likelihoods(branches.step(rest[:-1]), rest[1:]).sum())
        scores.append(total)
    return scores


def measure_ranking(
    session: Stepping, golden: Path, count: int | None, margin: float, progress: Progress
) -> VehicleRanking:
    """Let a package rank the first `count` requests (None: all) and compare with the float model.

    Args:
        session: of the package.
        golden: `vehicle.json`.
        count: requests asked.
        margin: loss of accuracy the product tolerates, as 0.03.
        progress: called with (done, total).
    """
    questionnaire = read_questionnaire(golden)
    asked = questionnaire.questions[:count]
    branches = Branches(session, REFRESH)
    scores = []
    for index, question in enumerate(asked):
        branches.start(questionnaire.shared)
        scores.append(score_options(branches, question.prompt, question.options))
        progress(index + 1, len(asked))
    return compare_rankings(asked, scores, margin)


def compare_rankings(asked: Sequence[Question], scores: Sequence[Sequence[float]], margin: float) -> VehicleRanking:
    """Hold a package's scores [request][option] against the float model's."""
    ours = [preferred(row, question.lengths) for row, question in zip(scores, asked, strict=True)]
    theirs = [preferred(question.scores, question.lengths) for question in asked]
    right, float_right = [each == RIGHT for each in ours], [each == RIGHT for each in theirs]
    sums = [int(np.argmax(row)) == RIGHT for row in scores]
    float_sums = [int(np.argmax(question.scores)) == RIGHT for question in asked]
    gaps = [np.abs(np.subtract(row, question.scores)).mean() for row, question in zip(scores, asked, strict=True)]
    return VehicleRanking(
        requests=len(asked),
        of=len(requests()),
        options=len(asked[0].options),
        agreement=float(np.mean([one == other for one, other in zip(ours, theirs, strict=True)])),
        paired=compare_paired(float_right, right, margin),
        paired_sum=compare_paired(float_sums, sums, margin),
        by_category=count_by([question.category for question in asked], float_right, right),
        by_language=count_by([question.language for question in asked], float_right, right),
        score_gap=float(np.mean(gaps)),
    )


def preferred(scores: Sequence[float], lengths: Sequence[int]) -> int:
    """The option with the highest log-likelihood per byte; the first of equals."""
    return int(np.argmax(np.divide(scores, lengths)))


def count_by(
    groups: Sequence[str], reference: Sequence[bool], candidate: Sequence[bool]
) -> dict[str, tuple[int, int, int]]:
    """(items, right by the reference, right by the candidate) of each group."""
    rows = list(zip(groups, reference, candidate, strict=True))
    return {
        group: (
            sum(name == group for name, _, _ in rows),
            sum(right for name, right, _ in rows if name == group),
            sum(right for name, _, right in rows if name == group),
        )
        for group in sorted(set(groups))
    }
