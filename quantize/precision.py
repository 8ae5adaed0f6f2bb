"""The number format that this processor multiplies matrices in fastest, and what a torch result depends on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fast_type() -> "torch.dtype":
    """bfloat16 where the processor multiplies it in hardware, else float32."""
    import torch

    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))
    return torch.bfloat16 if native else torch.float32


def conditions() -> dict[str, str]:
    """What the last bits of a torch result depend on: version, threads, number format, instruction set."""
    import torch

    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "type": str(fast_type()).removeprefix("torch."),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
