"""Climb the ladders of a target: measure no more packages than it takes to know which one ships.

Every runtime starts at its smallest scheme. What its weights alone rule out is not measured further, and a runtime
whose scheme does not fail goes no higher: a larger package would not ship in its place.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tapeout.diagnosis import Results
from tapeout.executor import Executor
from tapeout.jobs import CandidateJobs, Job, Plan, walk
from tapeout.rungs import failure_of, ladders_of, lost_of, name_of, shares_weights
from targets.target import Target


@dataclass(frozen=True)
class Climb:
    """One climb.

    Attributes:
        target: whose gates judge.
        plan: with every rung of every ladder.
        executor: runs what is missing.
        results: what was run so far.
    """

    target: Target
    plan: Plan
    executor: Executor
    results: Results

    def run(self, wanted: Iterable[Job]) -> None:
        """Run jobs and what they take."""
        jobs = dict.fromkeys(job for each in wanted for job in walk(each))
        self.executor.run_jobs(list(jobs), self.results.done, self.results.failed)

    def failure(self, each: CandidateJobs) -> str:
        """Why a package fails by what is known of it; empty when it does not."""
        done, failed = self.results.done, self.results.failed
        lost = lost_of(each, failed)
        return failed[lost].what if lost is not None else failure_of(each, done, self.executor.store, self.target)

    def step(self, rung: list[CandidateJobs], last: list[CandidateJobs]) -> None:
        """Screen the packages of one rung, and measure those that pass or that nothing comes after."""
        beside = [each for each in self.plan.candidates if any(shares_weights(each, other) for other in rung)]
        self.run(each.screen for each in (*rung, *beside))
        self.run(each.measure for each in rung if each in last or not self.failure(each))


def climb(target: Target, plan: Plan, executor: Executor) -> Results:
    """Build and measure candidates rung by rung until every runtime has one that does not fail, or no more.

    A scheme that one runtime of a device tries is screened in the others too, since two runtimes that disagree on the
    same weights have an error.

    Raises:
        TapeoutError: a failure that concerns every package, or of the last that was left.
    """
    way = Climb(target, plan, executor, Results({}, {}))
    way.run((plan.golden, *plan.wanted))
    ladders = list(ladders_of(plan))
    while ladders:
        way.step([ladder[0] for ladder in ladders], [ladder[0] for ladder in ladders if len(ladder) == 1])
        left = [(ladder, way.failure(ladder[0])) for ladder in ladders]
        ladders = [ladder[1:] for ladder, failure in left if failure and len(ladder) > 1]
        for ladder, failure in left:
            if failure and len(ladder) > 1:
                executor.watcher.noted(f"{name_of(ladder[0])} fails: {failure}. Next: {ladder[1].recipe}")
    if way.results.failed and not any(each.screen in way.results.done for each in plan.candidates):
        raise next(iter(way.results.failed.values()))
    return way.results
