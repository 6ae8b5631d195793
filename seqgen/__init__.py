"""Sequential generative models (Rezende et al., ICML 2016) in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.api import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`seqgen.load`, imported when first used: `import seqgen` needs no torch."""
    if name == "load":
        from seqgen.api import load

        return load
    raise AttributeError(f"module 'seqgen' has no attribute {name!r}")
