"""Render a conversation as transformers does: the expectation that a runtime's template engine is held against."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from targets.errors import InputRefused
from validate.chat import raise_exception, read_template


def render_conversation(
    folder: Path, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> str | None:
    """The prompt of a conversation; None when the folder has no template or its template refuses the conversation.

    The environment is transformers' (utils/chat_template_utils.py): white space control, loop controls, JSON without
    HTML escapes, absent values empty.

    Raises:
        InputRefused: the template is not one text of a sensible size.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source, tokens = read_template(folder)
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    try:
        return environment.from_string(source).render(
            messages=[dict(message) for message in messages],
            tools=None if tools is None else [dict(tool) for tool in tools],
            add_generation_prompt=True,
            raise_exception=raise_exception,
            **tokens,
        )
    except ValueError:
        return None  # the template's own refusal, as of a system message it does not know
    except (TemplateError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise InputRefused(
            f"the chat template of {folder.name} fails: {error}", "repair the model's template"
        ) from error


def to_json(value: object, indent: int | None = None) -> str:
    """JSON as templates of transformers write it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def mentions_tools(folder: Path) -> bool:
    """Whether the template of `folder` does anything with tools."""
    source, _ = read_template(folder)
    return source is not None and "tools" in source
