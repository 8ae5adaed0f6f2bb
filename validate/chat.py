"""Render a chat prompt with the model's own template, in Jinja's immutable sandbox."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from targets.errors import InputRefused

MAX_TEMPLATE_BYTES = 64 * 1024
MAX_PROMPT_CHARACTERS = 1 << 20


def render_prompt(folder: Path, user: str) -> str:
    """The text a model of `folder` reads for one user message; the message itself when it has no template.

    Raises:
        InputRefused: as `render_messages`.
    """
    prompt = render_messages(folder, [{"role": "user", "content": user}])
    return user if prompt is None else prompt


def render_messages(
    folder: Path, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """The text a model of `folder` reads for a conversation, ready for its answer; None when it has no template.

    Raises:
        InputRefused: the template is too large, fails, reaches for what the sandbox forbids, or writes too much.
    """
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source, tokens = read_template(folder)
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    try:
        prompt = environment.from_string(source).render(
            messages=list(messages),
            add_generation_prompt=True,
            tools=list(tools) or None,
            raise_exception=raise_exception,
            **tokens,
        )
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise InputRefused(
            f"the chat template of {folder.name} fails: {error}", "repair the model's template"
        ) from error
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InputRefused(f"the chat template of {folder.name} writes {len(prompt)} characters", "repair the template")
    return prompt


def raise_exception(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise ValueError(message)


def read_template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """(template or None, special tokens by name) of a Hugging Face folder."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if source is not None and (not isinstance(source, str) or len(source.encode()) > MAX_TEMPLATE_BYTES):
        raise InputRefused(
            f"the chat template of {folder.name} is not one text of at most {MAX_TEMPLATE_BYTES} bytes",
            "keep one template in chat_template.jinja",
        )
    tokens = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return source, {name: text_of(token) for name, token in tokens.items() if token is not None}


def text_of(token: object) -> str:
    """A special token's text; older files wrap it in an object."""
    return str(token["content"]) if isinstance(token, dict) else str(token)
