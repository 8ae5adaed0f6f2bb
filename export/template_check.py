"""Try a model's chat template before anything depends on it: in a child, within limits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from targets.errors import InputRefused

CPU_SECONDS = 1
# A busy machine takes its time; what waits for nothing is ended by its processor time long before.
WALL_SECONDS = 30
MEMORY_BYTES = 128 << 20
MAX_CHARACTERS = 1 << 20
SHOWN = 300

_USER = {"role": "user", "content": "What is the capital of France?"}
_TOKENS = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad", "unk")}
_TOOL = {"type": "function", "function": {"name": "look_up", "description": "", "parameters": {"type": "object"}}}
_CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [_USER]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            _USER,
            {"role": "assistant", "content": "Paris."},
            _USER,
        ]
    },
    {"messages": [_USER], "tools": [_TOOL]},
)


def check_template(template: str, where: str) -> None:
    """Render `template` with a few conversations.

    Raises:
        InputRefused: it is no template, fails on a plain question, reaches for what the sandbox forbids, or does not
            end within its limits of time, memory and text.
    """
    common = {"add_generation_prompt": True, "tools": None, **_TOKENS}
    job = {
        "template": template,
        "conversations": [common | conversation for conversation in _CONVERSATIONS],
        "cpu_s": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "characters": MAX_CHARACTERS,
    }
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("template_process.py"))],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=WALL_SECONDS,
            check=False,
        )
        fault = json.loads(child.stdout).get("fault", "") if child.returncode == 0 else "it does not end within limits"
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        fault = "it does not end within limits"
    if fault:
        raise InputRefused(
            f"the chat template of {where} cannot be used: {fault[:SHOWN]}",
            "repair it, or use a model with a plain one",
        )
