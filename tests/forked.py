"""Work in a forked child, so that a test can kill it or look at how it ended."""

import os
import traceback
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """Start `work` in a child; the exit code is 0 only if it returns."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
