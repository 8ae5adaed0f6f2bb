"""Load a package of a bundle with its prompt cache: what a product's own program calls.

    cached = open_cached(Path("artifacts/cpu/smollm2-135m"), "packages/cpu-openvino")
    pipeline = cached.pipeline()
    answer = pipeline.generate(cached.prompt("Make it warmer."), 64, stop=True)

With OpenVINO `pipeline.pipeline` is an `openvino_genai.LLMPipeline`, with all that one can do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.strict_json import read_object
from targets.errors import InputRefused, IntegrityError, UsageError
from targets.names import choose
from validate.chat import render_messages
from validate.prompt_cache import PREFIX, REBUILD, Answering, PromptCache, find_loader, open_prompt_cache
from validate.prompt_prefix import Prefix, read_prefix

MANIFEST = "manifest.json"
LIMIT = 64 << 20  # bytes of a manifest


@dataclass(frozen=True)
class CachedPackage:
    """A package and the state of the prefix that its requests share.

    Attributes:
        folder: of the package.
        settings: it is loaded with.
        cache: the state, verified.
        prefix: the system prompt and the tools behind it.
    """

    folder: Path
    settings: Mapping[str, Any]
    cache: PromptCache
    prefix: Prefix

    def pipeline(self) -> Answering:
        """The runtime's pipeline, its sequences begun after the prefix."""
        return find_loader(self.cache.backend).cached_pipeline(self.folder, self.settings, self.cache.load())

    def prompt(self, user: str) -> list[int]:
        """Tokens of a request, without the prefix, as the pipeline takes them.

        Raises:
            UsageError: the words change the tokens of the prefix.
        """
        from tokenizers import Tokenizer

        messages = [{"role": "system", "content": self.prefix.system}, {"role": "user", "content": user}]
        text = render_messages(self.folder, messages, self.prefix.tools) or user
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return self.cache.rest(tokenizer.encode(text, add_special_tokens=False).ids)


def open_cached(bundle: Path, package: str) -> CachedPackage:
    """A package of a bundle with its prompt cache; `package` is its path in the bundle.

    Raises:
        UsageError: no such package, or one without a prompt cache.
        InputRefused: no manifest.
        DeviceMissing, IntegrityError: as `validate.prompt_cache.open_prompt_cache`.
    """
    packages = read_object(bundle / MANIFEST, LIMIT).get("packages")
    if not isinstance(packages, dict):
        raise InputRefused(f"{bundle} is no bundle", "name the folder that holds manifest.json")
    entry = choose(package, packages, "package of this bundle")
    if entry.get("prompt_cache") is None:
        raise UsageError(
            f"{package} has no prompt cache", "build with --prefix; the report says which runtimes take one"
        )
    folder = bundle / entry["prompt_cache"]
    cache = open_prompt_cache(folder, bundle / package, entry["settings"])
    prefix = read_prefix(folder / PREFIX)
    if prefix.digest != cache.prefix:
        raise IntegrityError(f"{folder / PREFIX} is not what the state was computed for", REBUILD)
    return CachedPackage(bundle / package, entry["settings"], cache, prefix)
