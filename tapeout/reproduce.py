"""Build again, in a fresh store and folder and under other circumstances, and compare."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tapeout.code_version import ROOT
from tapeout.compare_bundles import Difference, compare_bundles
from tapeout.disturbance import disturbed_environment
from tapeout.jobs import Request
from targets.errors import NotReproducible, StageFailed

# A gate that failed or is missing is no reason not to compare.
BUILT = frozenset({0, 1})


def check_reproducible(bundle: Path, store: Path, arguments: Sequence[str]) -> None:
    """Build what is in `bundle` again, with `arguments` of `tapeout build`, and compare.

    Args:
        bundle: the first build's.
        store: the first build's; the second gets an empty one beside it, and so the same downloads.
        arguments: target and options, paths absolute.

    Raises:
        NotReproducible: names the first file and field that differ.
        StageFailed: the second build did not end.
    """
    with (
        # Beside the store and not in /tmp: results are large, and another file system may be small.
        tempfile.TemporaryDirectory(dir=store.absolute().parent, prefix=".again-store-") as fresh,
        tempfile.TemporaryDirectory(prefix="tapeout-again-") as scratch,
    ):
        out = Path(scratch) / "out"
        build_again(["--store", fresh, "build", *arguments, "--out", str(out)], Path(scratch))
        again = out / bundle.resolve().parent.name / bundle.resolve().name
        refuse_differences(compare_bundles(bundle, again))


def build_again(arguments: Sequence[str], scratch: Path) -> None:
    """Run the command line under other circumstances, in `scratch`.

    Raises:
        StageFailed: it did not end with a bundle.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tapeout", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=scratch,
        env=disturbed_environment(scratch, ROOT),
        umask=0o077,
    )
    if done.returncode not in BUILT:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise StageFailed(f"the second build ended with {done.returncode}: {last}", "build again, then check")


def refuse_differences(found: Sequence[Difference]) -> None:
    """End where two builds differ.

    Raises:
        NotReproducible: they do.
    """
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise NotReproducible(
            f"a second build differs: {found[0]}{more}",
            "look for what it depends on: docs/bundle.md says what has to be the same",
        )


def arguments_of(target: str, request: Request) -> list[str]:
    """What `tapeout build` has to be told to do the same from another folder."""
    from validate.plans import GoldenPlan

    named = Path(target)
    files = {"--text": request.text, "--questions": request.questions, "--baseline": request.baseline}
    files["--prefix"] = request.prefix
    return [
        str(named.resolve()) if named.is_file() else target,
        *("--model", str(Path(request.source).resolve()) if Path(request.source).exists() else request.source),
        *("--precision", request.precision),
        *("--sequence", str(request.sequence)),
        *(word for option, path in files.items() if path is not None for word in (option, path)),
        *(["--suite"] if request.suite else []),
        *(["--windows", str(request.golden.windows)] if request.golden != GoldenPlan() else []),
    ]
