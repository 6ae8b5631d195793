"""What a model drew while it learned, epoch by epoch; kept in every checkpoint, so that a resumed run has it all."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

FILE_NAME = "gallery.npz"


@dataclass
class Gallery:
    """The drawings of an epoch by its number, uint8 [n,H,W] each; the contexts they were given, likewise, if any."""

    drawn: dict[int, np.ndarray] = field(default_factory=dict)
    context: np.ndarray | None = None

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        import numpy as np

        parts = {str(epoch): images for epoch, images in self.drawn.items()}
        if self.context is not None:
            parts["context"] = self.context
        content = io.BytesIO()
        np.savez_compressed(content, **parts)  # type: ignore[arg-type]
        write_bytes(path, content.getvalue())


def read_gallery(path: Path) -> Gallery:
    """As it was written; empty where there is none, as in what was trained before there were galleries."""
    import numpy as np

    if not path.is_file():
        return Gallery()
    with np.load(path, allow_pickle=False) as parts:
        drawn = {int(name): parts[name] for name in parts.files if name != "context"}
        context = parts["context"] if "context" in parts.files else None
    return Gallery(dict(sorted(drawn.items())), context)
