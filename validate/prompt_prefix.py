"""The beginning that every request of an assistant shares: a system prompt and tools -> the tokens of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.digest import digest_value
from export.strict_json import read_object
from targets.errors import InputRefused
from validate.chat import render_messages
from validate.vehicle_session import common_beginning

LIMIT = 4 << 20  # bytes of the file
KEYS = frozenset({"system", "tools"})
# What a user may begin with: a letter, a space, a digit, a line, another script. Tokens that some of these change are
# no part of the prefix.
PROBES = ("a", " The", "7", "\n", "\N{LATIN CAPITAL LETTER U WITH DIAERESIS}", "\N{CJK UNIFIED IDEOGRAPH-4E00}")


@dataclass(frozen=True)
class Prefix:
    """What stands in front of the user's words.

    Attributes:
        system: the system prompt.
        tools: as the chat template takes them, in the JSON form of OpenAI's function calling.
    """

    system: str
    tools: tuple[dict[str, Any], ...] = field(default=())

    @property
    def digest(self) -> str:
        """SHA-256 over both."""
        return digest_value({"system": self.system, "tools": list(self.tools)})


def read_prefix(path: Path) -> Prefix:
    """The prefix in a file: `{"system": ..., "tools": [...]}` where it ends in .json, else the system prompt as it is.

    Raises:
        InputRefused: it is not that.
    """
    if path.suffix != ".json":
        try:
            text = path.read_bytes()[: LIMIT + 1].decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InputRefused(f"{path} is not text in UTF-8: {error}", "write the system prompt into it") from error
        if not 0 < len(text.encode()) <= LIMIT:
            raise InputRefused(f"{path} is empty or larger than {LIMIT} bytes", "write the system prompt into it")
        return Prefix(text)
    found = read_object(path, LIMIT)
    system, tools = found.get("system"), found.get("tools", [])
    sound = isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    if set(found) - KEYS or not isinstance(system, str) or not sound:
        raise InputRefused(
            f'{path} is not {{"system": "...", "tools": [...]}}', "docs/prompt-cache.md has an example of such a file"
        )
    return Prefix(system, tuple(tools))


def prefix_tokens(folder: Path, prefix: Prefix, max_positions: int) -> list[int]:
    """The tokens that every conversation with this beginning starts with, by the package's template and tokenizer.

    Args:
        folder: of a package.
        prefix: system prompt and tools.
        max_positions: context of the model.

    Raises:
        InputRefused: the model has no chat template, the template leaves the system prompt, a tool or the user out, or
            the prefix fills half the context.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    system = {"role": "system", "content": prefix.system}
    prompts = [render_messages(folder, [system, {"role": "user", "content": user}], prefix.tools) for user in PROBES]
    if prompts[0] is None:
        raise InputRefused(f"{folder.name} has no chat template, so no system prompt", "give the model a chat template")
    for wanted in (prefix.system, *(name for tool in prefix.tools if (name := tool_name(tool)))):
        if wanted.strip() not in prompts[0]:
            raise InputRefused(
                f"the chat template leaves out {wanted.strip()[:40]!r}", "write the tools into the system prompt"
            )
    if len(set(prompts)) < len(PROBES):
        raise InputRefused("the chat template leaves out the user's words", "repair the model's template")
    tokens = common_beginning([tokenizer.encode(text, add_special_tokens=False).ids for text in prompts if text])
    if not 0 < len(tokens) <= max_positions // 2:
        raise InputRefused(
            f"the prefix has {len(tokens)} tokens, and the model's context {max_positions}",
            "shorten the system prompt: at most half of the context may be its",
        )
    return tokens


def tool_name(tool: dict[str, Any]) -> str | None:
    """What a tool is called."""
    function = tool.get("function")
    name = (function if isinstance(function, dict) else tool).get("name")
    return name if isinstance(name, str) else None
