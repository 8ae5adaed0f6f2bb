"""Measure what builds take as models grow.

`python -m tapeout.scale_bench --tokenizer FOLDER --work FOLDER --out FILE SIZE...`

Every size is a synthetic folder that goes through `tapeout build --until compile` from an empty store. Time, the
largest process, and the largest sum over all processes are measured from outside; every package is loaded and generates
in a process of its own, beside the read bandwidth of the memory. The files are removed as soon as nothing needs them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from compile.package import Package
from export.strict_json import write_json
from tapeout.bench import BenchPlan, run
from tapeout.bench_subjects import package_subject
from tapeout.durable_files import remove_tree
from tapeout.planning import identify
from tapeout.store import Store
from tapeout.synthetic_model import SHAPES, write_synthetic
from tapeout.values import from_json
from targets.errors import StageFailed
from targets.probe import probe_host
from validate.bandwidth import measure_bandwidth
from validate.roofline import weights_read

TARGET = "cpu"
SAMPLE_S = 0.25
PACKAGE = "compile.package:Package"
# Enough to see that a package loads and generates, and how fast; a prompt of one chunk.
PROMPT, NEW_TOKENS, ROUNDS = 32, 16, 3


class Sampler(threading.Thread):
    """The largest sum of resident memory over a process and all below it, shared pages counted once."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root = root
        self.ended = threading.Event()
        self.largest = 0

    def run(self) -> None:
        """Look until told to end."""
        while not self.ended.wait(SAMPLE_S):
            self.largest = max(self.largest, sum(proportional_bytes(pid) for pid in tree(self.root)))


def tree(root: int) -> list[int]:
    """A process and all below it; those that end meanwhile are left out."""
    found = [root]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, path.read_text(encoding="ascii").split())
            except OSError:
                continue
    return found


def proportional_bytes(pid: int) -> int:
    """Resident bytes of a process, pages that n processes share counted as one nth; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(size: str, tokenizer: Path, work: Path, precision: str) -> dict[str, Any]:
    """Build one size and ask its packages; everything written is gone afterwards.

    Raises:
        StageFailed: the build failed.
    """
    folder, store, out = (work / name for name in (f"synthetic-{size}", f"store-{size}", f"out-{size}"))
    work.mkdir(parents=True, exist_ok=True)
    write_synthetic(size, tokenizer, folder)
    source_bytes = sum(path.stat().st_size for path in folder.iterdir())
    command = [sys.executable, "-m", "tapeout", "--store", str(store), "build", TARGET, "--model", str(folder)]
    command += ["--precision", precision, "--until", "compile", "--format", "json", "--out", str(out)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        sampler = Sampler(child.pid)
        sampler.start()
        watch = threading.Thread(target=drop_source, args=(child, folder), daemon=True)
        watch.start()
        text = child.stdout.read() if child.stdout is not None else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.ended.set()
    seconds = time.perf_counter() - start
    if child.returncode:
        raise StageFailed(f"the build of {size} ended with {child.returncode}", "build it by hand to see why")
    told = json.loads(text)
    found = {
        "size": size,
        "precision": precision,
        "source_bytes": source_bytes,
        "seconds": round(seconds, 1),
        "largest_process_bytes": usage.ru_maxrss * 1024,
        "largest_sum_bytes": sampler.largest,
        "store_bytes": tree_bytes(store),
        "stages": told["stages"],
        "packages": speeds(store),
    }
    for path in (folder, store, out):
        remove_tree(path)
    return found


def drop_source(child: "subprocess.Popen[str]", folder: Path) -> None:
    """Pass on what the build says, and remove the source once it is imported: two copies of it may not fit."""
    for line in child.stderr or ():
        sys.stderr.write(line)
        if line.startswith("done  import"):
            shutil.rmtree(folder)


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def speeds(store: Path) -> list[dict[str, Any]]:
    """How fast each package in the store answers, and what share of the memory's read bandwidth its weights take.

    Raises:
        StageFailed: one does not load or does not generate.
    """
    opened = Store(store)
    return [
        speed(from_json(PACKAGE, record.value, opened.object_path(record.object)))
        for record in opened.records("compile")
    ]


def speed(package: Package) -> dict[str, Any]:
    """A package's rate beside the memory's, the two measured in turns.

    A rate is a median, and so is held against the median bandwidth, which other programs on the machine lower as they
    lower the rate; and against the best, which is the machine's own.

    Raises:
        StageFailed: it does not load or does not generate.
    """
    threads = os.cpu_count() or 1
    plan = BenchPlan(rounds=1, prompts=(PROMPT,), new_tokens=NEW_TOKENS, threads=threads)
    subject = package_subject(package.backend, package)
    bandwidths, firsts, tokens = [], [], []
    for _ in range(ROUNDS):
        bandwidths.append(measure_bandwidth(threads))
        first, each = run(subject, plan, {"task": "time"})["figures"][str(PROMPT)]
        firsts.append(first)
        tokens.append(each)
    size, each = weights_read(package), median(tokens)
    best = max(one.bytes_per_second for one in bandwidths)
    middle = median(one.median_bytes_per_second for one in bandwidths)
    return {
        "backend": package.backend,
        "scheme": package.scheme,
        "package_bytes": package.package_bytes,
        "first_token_s": round(median(firsts), 4),
        "tokens_per_s": round(1 / each, 3),
        "bytes_per_token": size,
        "read_bandwidth": round(best),
        "bandwidth_share": round(size / each / best, 3),
        "median_read_bandwidth": round(middle),
        "median_bandwidth_share": round(size / each / middle, 3),
    }


def main() -> None:
    """Measure the sizes in order; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="+", choices=list(SHAPES))
    for name in ("--tokenizer", "--work", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--precision", choices=("int4", "int8"), default="int4")
    given = parser.parse_args()
    rows = {}
    if given.out.exists():
        rows = {row["size"]: row for row in json.loads(given.out.read_text(encoding="utf-8"))["sizes"]}
    for size in given.sizes:
        rows[size] = measure(size, given.tokenizer, given.work, given.precision)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        ordered = [rows[name] for name in SHAPES if name in rows]
        write_json(given.out, {"host": identify(probe_host()), "target": TARGET, "sizes": ordered})


if __name__ == "__main__":
    main()
