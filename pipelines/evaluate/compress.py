"""Compress held-out images with bits back, and count the bits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.one_shot import Entry, entry, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

ImagesOption = Annotated[
    int | None, typer.Option("--images", min=2, help="Images of evaluate.split, at random; default: all.")
]
MEANINGS = {
    "bits_back": "the file: header, words with the initial bits, checksum",
    "bits_back_words": "its words alone, with the initial bits",
    "bits_back_net": "its words without the initial bits, which could carry another message",
    "bound": "F of the same images / ln 2, one posterior sample an image",
    "bits_back_over_bound": "the file's rate / bound",
    "net_over_bound": "bits_back_net / bound",
    "gzip": "the pixels of all images, packed, by gzip -9",
    "bz2": "by bzip2 -9",
    "lzma": "by xz -9e",
    "png": "each image as a 1-bit PNG of its own",
}


def compress(recipe: RecipeOption = None, settings: SetOption = None, images: ImagesOption = None) -> None:
    """Compress images of `evaluate.split` with the trained model, lossless, and decode them in a fresh process.

    The rate in bits per pixel stands beside the bound that it cannot beat on average, and beside gzip, bz2, lzma and
    PNG. Writes artifacts/<recipe>/one_shot/compress.bits and compress.json. The model computes on the CPU.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    entries, about = measure_compression(trained, images)
    width = max(map(len, entries))
    for name, one in entries.items():
        print(f"  {name:<{width}} {one['value']:8.4f} {one['unit']:<10} {MEANINGS[name]}")
    path = write_table(trained, "compress", entries, about, "Lossless compression")
    print(f"written: {path}, {_file(trained).name}")


def measure_compression(trained: TrainedModel, images: int | None) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with. Raises OperationalError if a bit is lost."""
    import numpy as np

    from seqgen.compression import encode, unpack
    from seqgen.evaluation.bounds import free_energies, subset

    trained.manifest()
    held_out, seed = evaluated_images(trained), trained.recipe.evaluate.seed
    if images is not None:
        held_out = held_out.take(subset(len(held_out), images, seed, "compress"))
    model, count = trained.load(), len(held_out)
    with Display("images") as display:
        began = time.monotonic()
        content = encode(model, held_out.x, advance=display.counter("encode", count))
        encoding = time.monotonic() - began
        free_energy = free_energies(model, held_out, seed, display.counter("F", count)).free_energy
    print("decoding in a fresh process", flush=True)
    began = time.monotonic()
    decoded = _decoded(trained, content)
    trained.check_weights()  # else another model has decoded it
    if not np.array_equal(decoded, held_out.x.numpy()):
        raise OperationalError(f"{trained.model}: what was decoded in a fresh process are not the images")
    decoding = time.monotonic() - began
    write_bytes(_file(trained), content)

    header, words = unpack(content)
    pixels, initial = held_out.x.numel(), 32 * header.initial_words
    net, bound = 32 * len(words) - initial, free_energy.sum().item() / math.log(2)
    bits = {
        "bits_back": 8 * len(content),
        "bits_back_words": 32 * len(words),
        "bits_back_net": net,
        "bound": bound,
        **{name: 8 * size for name, size in general_purpose(held_out.x.numpy()).items()},
    }
    entries = {name: entry(value / pixels, None, count, unit="bits/pixel") for name, value in bits.items()}
    for name, size in {"bits_back_over_bound": 8 * len(content), "net_over_bound": net}.items():
        entries[name] = entry(100 * size / bound, None, count, unit="%")
    about = {
        "options": "" if images is None else f"--images {images}",
        "seed": seed,
        "file_bytes": len(content),
        "initial_bits": initial,
        "seconds": {"encode": round(encoding, 1), "decode": round(decoding, 1)},
        "batch": header.batch,
        "floats": header.floats,
        "notes": [
            "decoded in a fresh process, every bit compared",
            *(f"{name}: {meaning}" for name, meaning in MEANINGS.items()),
        ],
    }
    return {name: entries[name] for name in MEANINGS}, about


def general_purpose(images: np.ndarray) -> dict[str, int]:
    """Bytes of the same images, uint8 [N,1,H,W] in {0, 1}, by codecs that know nothing of them."""
    import numpy as np
    from PIL import Image

    packed = np.packbits(images).tobytes()
    size = 0
    for image in images[:, 0]:
        stream = io.BytesIO()
        Image.fromarray(image.astype(bool)).save(stream, "png", optimize=True)
        size += len(stream.getvalue())
    return {
        "gzip": len(gzip.compress(packed, 9)),
        "bz2": len(bz2.compress(packed, 9)),
        "lzma": len(lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME)),
        "png": size,
    }


def _file(trained: TrainedModel) -> Path:
    return trained.places.one_shot / "compress.bits"


def _decoded(trained: TrainedModel, content: bytes) -> np.ndarray:
    """The images of `content` as a process of its own decodes them. Raises BadInput or OperationalError as that did."""
    import numpy as np

    with tempfile.TemporaryDirectory() as directory:
        compressed, images = Path(directory) / _file(trained).name, Path(directory) / "images.npy"
        compressed.write_bytes(content)
        command = [sys.executable, "-m", "seqgen.compression"]
        code = subprocess.run([*command, str(trained.model), str(compressed), str(images)]).returncode
        if code:
            error = BadInput if code == BadInput.exit_code else OperationalError
            raise error(f"{compressed}: decoding in a fresh process ended with code {code}; see above")
        return np.load(images, allow_pickle=False)


if __name__ == "__main__":
    run(compress)
