"""A package as a model of EleutherAI's lm-evaluation-harness, which the extra `lm-eval` installs.

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from validate.lm_eval_model import bundle_model

model = bundle_model(Path("artifacts/cpu/smollm2-135m"), "packages/cpu-openvino")
found = simple_evaluate(model=model, tasks=["mine"], task_manager=TaskManager(include_path="folder/of/mine.yaml"))
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from targets.errors import DeviceMissing, UsageError
from targets.names import choose
from validate.vehicle_session import Stepping, as_ids, log_likelihoods

AT_ONCE = 512  # tokens a step, whose logits are all in memory
DEFAULT_TOKENS = 256  # the harness's own default of max_gen_toks


def bundle_model(bundle: Path, package: str) -> Any:
    """A package of a bundle, as it ships, as the harness takes it; `package` is its path in the bundle.

    Raises:
        UsageError: the bundle has no such package.
        DeviceMissing: lm-eval is not installed.
    """
    from validate.runtime import DEPLOYED, find_runtime

    packages = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["packages"]
    entry = choose(package, packages, "package")
    runtime = find_runtime(entry["backend"])
    if runtime is None:
        raise UsageError(f"{package} is of a back end without a runtime", "name a package that can be run")
    session: Any = runtime.session(bundle / package, entry["settings"], DEPLOYED)
    return harness_model(session, bundle / package, int(entry["facts"]["max_positions"]))


def harness_model(session: Stepping, folder: Path, max_positions: int) -> Any:
    """An `lm_eval.api.model.LM` that answers through `session`, with the tokenizer of `folder`.

    Raises:
        DeviceMissing: lm-eval is not installed.
    """
    try:
        base: Any = import_module("lm_eval.api.model").LM
    except ImportError as error:
        raise DeviceMissing("lm-eval is not installed", "in a checkout: pip install '.[lm-eval]'") from error
    scorer = SessionScorer(session, folder, max_positions)

    class SessionModel(base):  # type: ignore[misc] # its type is known only where lm-eval is installed
        """Answers requests one by one."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [scorer.continuation(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            return [scorer.whole_text(request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return [scorer.generate(*request.args) for request in requests]

    return SessionModel()


class SessionScorer:
    """The three kinds of request of the harness, on one session."""

    def __init__(self, session: Stepping, folder: Path, max_positions: int) -> None:
        """Use `session` with the tokenizer and the end tokens of `folder`."""
        from tokenizers import Tokenizer

        self.session, self.max_positions = session, max_positions
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        stored = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
        self.ends = list(stored) if isinstance(stored, list) else [] if stored is None else [stored]

    def encode(self, text: str) -> list[int]:
        """Ids; nothing is added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def beginning(self) -> int:
        """The token in front of a text that has none.

        Raises:
            UsageError: the model names no end token to stand there.
        """
        if not self.ends:
            raise UsageError("a text without context needs a token in front", "name eos_token_id in generation_config")
        return int(self.ends[0])

    def continuation(self, context: str, text: str) -> tuple[float, bool]:
        """(natural log of the probability of `text` after `context`, whether it is what greedy decoding writes).

        White space at the end of the context belongs to the text, as the harness has it.
        """
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, text = context[:-spaces], context[-spaces:] + text
        before = self.encode(context) if context else [self.beginning()]
        ids = self.encode(context + text)[len(before) :] if context else self.encode(text)
        return self.score(before, ids)

    def score(self, before: Sequence[int], ids: Sequence[int]) -> tuple[float, bool]:
        """The same on token ids; a context that does not fit loses its beginning."""
        self.session.reset()
        kept = before[-max(1, self.max_positions - len(ids)) :]
        for start in range(0, len(kept) - 1, AT_ONCE):
            self.session.step(as_ids(kept[:-1][start : start + AT_ONCE]))
        fed = [kept[-1], *ids[:-1]]
        total, greedy = 0.0, True
        for start in range(0, len(ids), AT_ONCE):
            rows, targets = self.session.step(as_ids(fed[start : start + AT_ONCE])), ids[start : start + AT_ONCE]
            total += float(log_likelihoods(rows, targets).sum())
            greedy = greedy and rows.argmax(axis=1).tolist() == list(targets)
        return total, greedy

    def whole_text(self, text: str) -> float:
        """Natural log of the probability of a text, in pieces that fit the context; each token is scored once."""
        ids = self.encode(text)
        previous, total = self.beginning(), 0.0
        for start in range(0, len(ids), self.max_positions):
            piece = ids[start : start + self.max_positions]
            total += self.score([previous], piece)[0]
            previous = piece[-1]
        return total

    def generate(self, context: str, options: Mapping[str, Any]) -> str:
        """Greedy text after `context`, up to the first of the stop texts."""
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        limit = int(options.get("max_gen_toks", DEFAULT_TOKENS))
        ids = self.encode(context)[-max(1, self.max_positions - limit) :] or [self.beginning()]
        self.session.reset()
        written: list[int] = []
        step = ids
        while len(written) < min(limit, self.max_positions - len(ids)):
            token = int(self.session.step(as_ids(step))[-1].argmax())
            if token in self.ends:
                break
            written.append(token)
            step = [token]
            text = self.tokenizer.decode(written)
            if any(stop and stop in text for stop in stops):
                break
        return cut(self.tokenizer.decode(written), stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stop texts."""
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=len(text))]
