"""`python -m tests.import_server`: carry out import jobs, each in a fork of this process, and say what each cost.

Reads the path of a job file per line; writes {"code", "wall_s", "cpu_s", "peak_bytes", "pid"} per line. The answer
of the stage goes to `answer` beside the job. A fork spares the start of an interpreter per model; the stage runs as it
always does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

# Before the forks, what the stage would import by itself.
import export.gguf_weights
import export.model  # noqa: F401
from tapeout import stage_process

LIMIT_S = 60


def play(job: Path) -> None:
    """The child's side."""
    os.dup2(os.open(job.with_name("answer"), os.O_WRONLY | os.O_CREAT, 0o600), 1)
    os.dup2(os.open(job.with_name("log"), os.O_WRONLY | os.O_CREAT, 0o600), 2)
    os.chdir(job.parent)
    code = 99
    try:
        signal.alarm(LIMIT_S)
        code = stage_process.main(job)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            play(Path(line.strip()))
        _, status, usage = os.wait4(child, 0)
        said = {
            "code": os.waitstatus_to_exitcode(status),
            "wall_s": time.monotonic() - start,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
            "pid": child,
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import tokenizers  # noqa: F401

    main()
