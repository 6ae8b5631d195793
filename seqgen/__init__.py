"""Sequential generative models (Rezende et al., ICML 2016) in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqgen.api import load

    __version__: str

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`seqgen.load`, imported when first used: `import seqgen` needs no torch. `seqgen.__version__`, that installed."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("seqgen")
        except PackageNotFoundError:  # the code that a registered model carries, a checkout on PYTHONPATH
            return "unknown"
    if name == "load":
        from seqgen.api import load

        return load
    raise AttributeError(f"module 'seqgen' has no attribute {name!r}")
