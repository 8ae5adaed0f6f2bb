"""The one tree of errors: each says what happened, what to do next, and the exit code it ends a command with."""

from typing import ClassVar


class TapeoutError(Exception):
    """Base of every error a user can meet.

    Attributes:
        what: one sentence naming what happened and to which input.
        help: one sentence naming the next step.
        exit_code: what the process ends with when nothing handles the error.
    """

    exit_code: ClassVar[int] = 6

    def __init__(self, what: str, help: str) -> None:  # noqa: A002 - the word users read in front of the sentence
        super().__init__(what)
        self.what = what
        self.help = help

    def __reduce__(self) -> tuple[type["TapeoutError"], tuple[str, str]]:
        """Errors cross process boundaries; the default would call the class with one argument."""
        return type(self), (self.what, self.help)


class UsageError(TapeoutError):
    """A command line, a recipe or a target file that asks for something that does not exist."""

    exit_code = 2


class DeviceMissing(TapeoutError):
    """A device, a runtime or a compiler that this machine does not have."""

    exit_code = 3


class InputRefused(TapeoutError):
    """A model file or folder that is not safe or not supported."""

    exit_code = 4


class IntegrityError(TapeoutError):
    """Stored or shipped bytes that differ from their recorded digest."""

    exit_code = 5


class StageFailed(TapeoutError):
    """A stage that ran and did not produce what it promises."""

    exit_code = 6


class NotForModel(StageFailed):
    """A recipe that this model's shapes leave without a package of its own: the others of its ladder stand for it."""


class TimedOut(TapeoutError):
    """A stage that did not end within its time limit."""

    exit_code = 7


class NoSpace(TapeoutError):
    """A file system that is full or not writable."""

    exit_code = 8


class WorkerLost(TapeoutError):
    """A child process that died without an answer."""

    exit_code = 9


class NotReproducible(TapeoutError):
    """The same inputs that gave other bytes the second time."""

    exit_code = 12


def error_named(name: object) -> type[TapeoutError]:
    """The class that another process names; StageFailed when it names none of these."""
    found = globals().get(name) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, TapeoutError) else StageFailed
