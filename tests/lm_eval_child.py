"""Run the harness on a hub and a local task: where the harness is installed, which is not where the tests run."""

import json
import sys
from pathlib import Path


def main(hub: Path, weights: Path, tasks: Path) -> None:
    """Print accuracy, the log-likelihoods of all choices, and what is generated after a word, as JSON."""
    from lm_eval import simple_evaluate  # type: ignore[import-not-found, unused-ignore]
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found, unused-ignore]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found, unused-ignore]

    from export.model import ModelFacts
    from export.parity import HubSession
    from validate.lm_eval_model import harness_model
    from validate.vehicle_session import HubStepping

    facts = ModelFacts(**json.loads((tasks / "facts.json").read_text(encoding="utf-8")))
    model = harness_model(HubStepping(HubSession(hub / "model.onnx", facts, weights)), hub, facts.max_positions)
    found = simple_evaluate(
        model=model,
        tasks=["local_roads"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    rows = sorted(found["samples"]["local_roads"], key=lambda row: row["doc_id"])
    scores = [[float(response[0]) for response in row["filtered_resps"]] for row in rows]
    asked = [Instance("generate_until", {}, ("Hello", {"until": [], "max_gen_toks": 4}), 0)]
    results = {
        "accuracy": found["results"]["local_roads"]["acc,none"],
        "scores": scores,
        "generated": model.generate_until(asked)[0],
    }
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
