"""What a process says of its memory: its own, not that of whoever started it."""

import subprocess
import sys

import numpy as np
import pytest

from validate.process_memory import peak_bytes, peak_with_children_bytes, resident_bytes

LARGE = 400_000_000
ASK = "from validate.process_memory import peak_bytes; print(peak_bytes())"
HOLD = f"held = bytearray({LARGE}); held[::4096] = b'x' * len(held[::4096])"


def answer(code: str) -> int:
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a program's peak starts with the program")
def test_a_small_program_that_a_large_one_starts_says_its_own_peak() -> None:
    held = np.ones(LARGE // 8)
    assert peak_bytes() > held.nbytes
    assert answer(ASK) < LARGE / 4


def test_a_peak_is_kept_when_the_memory_is_given_back() -> None:
    assert answer(f"{HOLD}; del held; {ASK}") > LARGE


def test_what_is_resident_now_falls_again() -> None:
    code = "from validate.process_memory import resident_bytes; print(resident_bytes())"
    assert answer(f"{HOLD}; {code}") > LARGE
    if sys.platform == "linux":
        assert answer(f"{HOLD}; del held; {code}") < LARGE / 4
    assert resident_bytes() > 0


def test_the_largest_process_that_was_started_counts() -> None:
    code = "from validate.process_memory import peak_bytes, peak_with_children_bytes as both; import subprocess, sys; "
    code += f'subprocess.run([sys.executable, "-c", "{HOLD}"], check=True); '
    assert answer(code + "print(both())") > LARGE
    assert answer(code + "print(peak_bytes())") < LARGE / 4
    assert peak_with_children_bytes() >= peak_bytes()
