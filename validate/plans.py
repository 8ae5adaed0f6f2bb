"""How much is compared, asked and timed: part of the key of every figure, and so free of all that computes one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GoldenPlan:
    """How much is compared. Part of the key of every figure that descends from it.

    Attributes:
        windows: texts, each cut to its first `window_tokens`.
        weights_windows: how many of them are run again in float32, where kernels are slow and every runtime agrees.
        window_tokens: tokens a window.
        decode_tokens: positions at the end of a window that a package computes one at a time, as it ships.
        top: most likely tokens kept a position.
        sampled: tokens sampled from the rest.
        prompts: requests answered greedily.
        answer_tokens: longest answer.
        seed: of the sample.
        long_tokens: of the one long text; 0 for none. A shorter context or too little text makes it shorter.
        long_after: tokens of it that come before the first position compared.
    """

    windows: int = 8
    weights_windows: int = 4
    window_tokens: int = 256
    decode_tokens: int = 8
    top: int = 64
    sampled: int = 64
    prompts: int = 6
    answer_tokens: int = 20
    seed: int = 20260101
    long_tokens: int = 1536
    long_after: int = 1024


@dataclass(frozen=True)
class LatencyPlan:
    """What is timed.

    Attributes:
        prompt_lengths: in tokens.
        new_tokens: generated after the first token.
        rounds: counted, at most; prompt lengths alternate within a round, so that a drift of the machine meets all.
        least_rounds: taken even when the budget is spent.
        budget_s: no round is begun after this many seconds.
        warm_up_tokens: longest prompt that is run once before, not counted.
        restarts: fresh processes that load the package and answer, at least 2; a spread takes 3.
        restart_requests: timed in each of them after the first.
    """

    prompt_lengths: tuple[int, ...] = (32, 128, 512, 1024)
    new_tokens: int = 16
    rounds: int = 5
    least_rounds: int = 3
    budget_s: float = 15.0
    warm_up_tokens: int = 128
    restarts: int = 3
    restart_requests: int = 3

    @property
    def restart_prompt(self) -> int:
        """Length of the prompt in those processes: the longest that is cheap."""
        cheap = [length for length in self.prompt_lengths if length <= self.warm_up_tokens]
        return max(cheap, default=min(self.prompt_lengths))


@dataclass(frozen=True)
class ExperiencePlan:
    """How much the float model is asked. Part of the key of every figure that descends from it.

    Attributes:
        requests: of the in-vehicle suite that are ranked; None for all.
        calls: of those that are written as constrained JSON; None for all.
        prompts: answered greedily for stability; None for all.
        answer_tokens: longest of those answers.
    """

    requests: int | None = 48
    calls: int | None = 8
    prompts: int | None = 8
    answer_tokens: int = 40


# Everything there is, for `--suite`.
WHOLE = ExperiencePlan(requests=None, calls=None, prompts=None)
