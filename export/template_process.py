"""Runs in a child of its own: render a chat template within limits, and say how it ended.

Standard input holds {"template", "conversations", "cpu_s", "memory_bytes", "characters"}; the answer is one JSON
object, {"fault": text} or {}. A template is a program of a stranger: the sandbox keeps it from Python, the limits of
this process from time and memory, and there is no loader that could read a file.
"""

import json
import resource
import sys
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment


def refuse_conversation(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise ValueError(message)


def fault_of(job: dict[str, Any]) -> str:
    """What is wrong with the template; empty if nothing is.

    The first conversation is one that every chat model answers. A template may refuse the others, never escape, or
    write without end.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    for number, conversation in enumerate(job["conversations"]):
        try:
            template = environment.from_string(job["template"])
            written = 0
            for piece in template.generate(raise_exception=refuse_conversation, **conversation):
                written += len(piece)
                if written > job["characters"]:
                    return f"it writes more than {job['characters']} characters"
        # Jinja's own compiler leaves a `break` outside of a loop to Python's.
        except (SecurityError, TemplateSyntaxError, SyntaxError) as error:
            return str(error)
        except (MemoryError, RecursionError, OverflowError) as error:
            return f"it needs more memory than it may have ({type(error).__name__})"
        except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            if number == 0:
                return str(error)
    return ""


def main() -> None:
    """Answer one job."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"], job["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    fault = fault_of(job)
    sys.stdout.write(json.dumps({"fault": fault} if fault else {}))


if __name__ == "__main__":
    main()
