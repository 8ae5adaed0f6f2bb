"""Copy a parcel to a device and measure its packages there, over as many connections as the network takes."""

import dataclasses
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapeout.child import ENVIRONMENT, last_line
from tapeout.pipeline import find_stage
from tapeout.remote_failure import ConnectionLost, Unreachable
from tapeout.remote_link import Link, checked
from tapeout.remote_needs import Facts, check_device, check_python, check_runtimes, names_to_ask
from tapeout.remote_parcel import Parcel, pack
from tapeout.remote_place import Place
from tapeout.revalidate import package_fields
from tapeout.values import from_json
from targets.errors import StageFailed, TapeoutError, TimedOut, WorkerLost
from targets.target import Target
from validate.measure import Measured
from validate.plans import LatencyPlan

Say = Callable[[str], None]

PAUSES_S = (1.0, 5.0, 20.0, 60.0)  # before the second connection and those after it: a board takes a while to start
MEASURE = "measure"
CHANCES = 2  # a package whose measurement takes the device down so often is not tried again


@dataclass
class Found:
    """What a visit brings back, filled as it comes.

    Attributes:
        measured: figures by package path.
        failed: what went wrong on the device, by package path.
        left: why a package was not tried, by package path.
        losses: connections lost while a package was measured, by its path.
        program: digest of the code that measured.
    """

    measured: dict[str, Measured] = field(default_factory=dict)
    failed: dict[str, TapeoutError] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)
    program: str = ""

    def open(self, packages: tuple[str, ...]) -> list[str]:
        """Those of `packages` that nothing is known about yet."""
        return [path for path in packages if path not in {*self.measured, *self.failed, *self.left}]


@dataclass(frozen=True)
class Visit:
    """One validation of one bundle on one device.

    Attributes:
        place: the device.
        bundle: a bundle whose files have been verified.
        manifest: of the bundle.
        target: of the bundle.
        asked: packages to measure.
        say: told what happens.
        session: by which the device knows this visit when it comes back over a new connection.
    """

    place: Place
    bundle: Path
    manifest: Mapping[str, Any]
    target: Target
    asked: tuple[str, ...]
    say: Say
    session: str = field(default_factory=lambda: secrets.token_hex(8))

    def run(self) -> Found:
        """Measure; a connection that is lost is made again, and what is known by then is kept.

        Raises:
            DeviceMissing: the device, a runtime or its right version is not there.
            IntegrityError: another host key, or damaged bytes.
            NoSpace: the device is full.
            WorkerLost: the connection is lost and does not come back.
        """
        found = Found()
        lost: ConnectionLost | None = None
        for pause in (0.0, *PAUSES_S):
            if lost is not None:
                self.say(f"{lost.what}; again in {pause:.0f} s")
                time.sleep(pause)
            try:
                self.call(found)
            except ConnectionLost as error:
                lost = error
            except Unreachable as error:
                if lost is None:
                    raise
                lost = ConnectionLost(f"{lost.what}; now: {error.what}", lost.help)
            else:
                return found
        raise lost or AssertionError

    def call(self, found: Found) -> None:
        """One connection: see what is there, copy what is missing, measure what is open."""
        with Link(self.place) as link, tempfile.TemporaryDirectory(prefix="tapeout-") as scratch:
            check_python(self.place, link.python)
            described = link.ask({"names": names_to_ask(self.manifest)})
            facts = Facts(described["system"], described["machine"], described["versions"])
            check_device(self.place, facts)
            ready, left = check_runtimes(self.place, facts, self.manifest, self.target, self.asked)
            found.left.update(left)
            parcel = pack(self.bundle, self.manifest, ready, Path(scratch))
            self.copy(link, parcel)
            found.program = parcel.program
            link.ask({"files": parcel.files, "program": parcel.program})
            for path in found.open(ready):
                self.measure(link, path, found)
            link.ask({"bye": True})

    def copy(self, link: Link, parcel: Parcel) -> None:
        """Send what the device has not got; it has verified the rest."""
        request = {"folder": self.place.folder, "session": self.session, "look": parcel.sizes}
        missing: dict[str, int] = link.ask(request)["missing"]
        total = sum(parcel.sizes[digest] - offset for digest, offset in missing.items())
        have = sum(parcel.sizes.values()) - total
        self.say(f"copy {total / 1e6:.1f} MB to {self.place.host}, which has {have / 1e6:.1f} MB already")
        show = Share(self.say, "copy")
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            show(done, total)

        for digest, offset in sorted(missing.items(), key=lambda item: parcel.sizes[item[0]]):
            link.put(digest, parcel.sources[digest], offset, progress)

    def measure(self, link: Link, path: str, found: Found) -> None:
        """Measure one package; its failure is kept as such, the connection's is raised."""
        self.say(f"measure {path} on {self.place.host}")
        environment = {**ENVIRONMENT, **find_stage(MEASURE).environment}
        request = {"job": self.job(path), "timeout_s": self.place.timeout_s, "environment": environment}
        link.write(request)
        try:
            answer = link.answer(Share(self.say, path))
        except ConnectionLost as error:
            found.losses[path] += 1
            if found.losses[path] == CHANCES:
                what = f"{error.what}, {CHANCES} times while {path} was measured"
                found.failed[path] = WorkerLost(what, "look at the device's memory and power while it is measured")
            raise
        try:
            checked(answer, self.place)
            if "value" not in answer:
                raise self.ended(path, answer)
        except TapeoutError as error:
            self.say(f"{error.what}")
            found.failed[path] = error
        else:
            found.measured[path] = from_json(find_stage(MEASURE).value, answer["value"], self.bundle / path)

    def job(self, path: str) -> dict[str, Any]:
        """The measure stage's job, with paths as they are in the device's run folder."""
        package = self.manifest["packages"][path]
        plan = LatencyPlan(prompt_lengths=self.target.prompt_lengths)
        said = {name: self.manifest[name] for name in ("golden", "experience") if self.manifest[name] is not None}
        return {
            "stage": MEASURE,
            "inputs": {
                "package": {"stage": "compile", "value": package_fields(package), "folder": path},
                **{name: {"stage": name, "value": value, "folder": name} for name, value in said.items()},
            },
            "parameters": {
                "backend": package["backend"],
                "device": package["device"],
                "plan": dataclasses.asdict(plan),
            },
            "arguments": {},
            "out": "out",
        }

    def ended(self, path: str, answer: Mapping[str, Any]) -> TapeoutError:
        """The error for a measurement that gave no figures."""
        if answer["late"]:
            return TimedOut(
                f"{self.place.host}: measuring {path} took longer than {self.place.timeout_s} s",
                "look at the device's load, or allow more with --on-timeout",
            )
        return StageFailed(
            f"{self.place.host}: measuring {path} ended with {answer['ended']}: {last_line(answer['log'])}",
            "look at the device's memory and at its system log, then run the same command again",
        )


class Share:
    """Says how much is done, at each quarter but the last, which the next line says."""

    def __init__(self, say: Say, what: str) -> None:
        self.say, self.what = say, what
        self.said = 0

    def __call__(self, done: int, total: int) -> None:
        quarter = 4 * done // total if total else 4
        if self.said < quarter < 4:
            self.said = quarter
            self.say(f"    {self.what} {25 * quarter} %")
