"""The child process of one stage: `python -m tapeout.stage_process JOB`, JOB being a JSON file the parent wrote.

`python -m tapeout.stage_process --ahead MODULE...` imports the modules, then reads the name of that file, as JSON, from
standard input; at its end nobody needs the process.

Every line on standard output is one JSON object: `{"progress": [done, total]}` while it works, then
`{"value": {...}, "peak_bytes": n}` or `{"error": {...}}`. Whatever libraries print goes to standard error.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tapeout.disturbance import disturb_this_process
from tapeout.pipeline import find_stage
from tapeout.stage import Call
from tapeout.storage_errors import storage_errors
from tapeout.values import from_json, to_json
from targets.errors import TapeoutError
from validate.process_memory import peak_with_children_bytes

# Of this machine's memory, what a stage may allocate: a hostile model shall not take the machine with it.
MEMORY_SHARE = 0.9
PR_SET_PDEATHSIG = 1
AHEAD = "--ahead"


def main(job_path: Path | None, ahead: Sequence[str] = ()) -> int:
    """Run the job and answer; 0 also when the answer is an error the parent can understand.

    Without a path `ahead` is imported, and the path awaited.
    """
    answer = claim_stdout()
    limit_resources()
    disturb_this_process()
    end_with_parent()
    job_path = job_path or awaited_job(ahead)
    if job_path is None:
        return 0
    job = json.loads(job_path.read_text(encoding="utf-8"))
    try:
        with storage_errors(Path(job["out"])):
            value = run(job, lambda done, total: say(answer, {"progress": [done, total]}))
        say(answer, {"value": value, "peak_bytes": peak_with_children_bytes()})
    except TapeoutError as error:
        say(answer, {"error": {"type": type(error).__name__, "what": error.what, "help": error.help}})
    return 0


def awaited_job(ahead: Sequence[str]) -> Path | None:
    """The path that standard input names, once the modules are imported; None when it ends without one."""
    for name in ahead:
        with contextlib.suppress(ImportError):  # what is missing is said by the stage that needs it
            importlib.import_module(name)
    line = sys.stdin.readline()
    return Path(json.loads(line)) if line else None


def claim_stdout() -> TextIO:
    """Keep the pipe to the parent for answers, and send everything else that writes to file descriptor 1 to 2."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer


def limit_resources() -> None:
    """No core dumps, and no more data than this machine has memory for."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory * MEMORY_SHARE), resource.RLIM_INFINITY))


def end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed: nobody would read the answer."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(job: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The value of the stage as JSON."""
    stage = find_stage(job["stage"])
    inputs = {
        name: from_json(find_stage(given["stage"]).value, given["value"], Path(given["folder"]))
        for name, given in job["inputs"].items()
    }
    return to_json(stage.run(Call(inputs, job["parameters"], job["arguments"], Path(job["out"]), progress)))


def say(answer: TextIO, message: dict[str, Any]) -> None:
    """One line to the parent."""
    answer.write(json.dumps(message) + "\n")
    answer.flush()


if __name__ == "__main__":
    # Ending here skips the runtimes' static destructors, some of which crash after their work is done and saved.
    awaited = sys.argv[1] == AHEAD
    code = main(None, sys.argv[2:]) if awaited else main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(code)
