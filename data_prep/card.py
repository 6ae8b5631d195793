"""The card of a sharded set: what is in it, from what it was made, under which licence, for what it is fit."""

from __future__ import annotations

from data_prep.licences import LICENCES
from seqgen.core.yaml import format_yaml
from seqgen.data.manifest import Manifest

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def data_card(manifest: Manifest) -> str:
    """Markdown with Hugging Face's front matter; a function of the manifest alone."""
    images = sum(index.images for index in manifest.splits.values())
    licence = LICENCES[manifest.data.source]
    one_shot = manifest.data.has_characters
    about = {
        "license": licence.identifier,
        "pretty_name": manifest.title,
        "size_categories": [next((name for limit, name in _SIZES if images < limit), "10M<n<100M")],
        "task_categories": ["unconditional-image-generation", *(["image-to-image"] if one_shot else [])],
        "tags": [
            "webdataset",
            "seqgen",
            manifest.data.source,
            *(["one-shot-generation"] if one_shot else []),
        ],
    }
    splits = "\n".join(
        f"| {name} | {index.images:,} | {len(index.concepts):,} | {len(index.shards)} |"
        for name, index in manifest.splits.items()
    )
    sources = "\n".join(f"* `{source.name}`, sha256 `{source.sha256}`" for source in manifest.sources)
    taken = f"Taken as: {appearance}.\n\n" if (appearance := manifest.appearance()) else ""
    left_out = sum(shard.images for shard in manifest.left_out)
    damaged = f"\n* {left_out:,} training images are left out: their shards were damaged." if left_out else ""
    return f"""---
{format_yaml(about)}---

# {manifest.title}

{images:,} images of {manifest.height} x {manifest.width} pixels of {manifest.levels} levels, from paper = 0 to ink = 1;
the mean training pixel is {manifest.mean:.4f}. Webdataset tars of PNG and JSON, made by seqgen; manifest
`{manifest.digest}`.

| split | images | concepts | shards |
|---|---:|---:|---:|
{splits}

## Made from

{sources}

Settings: `{manifest.data.model_dump_json(exclude_defaults=True, exclude={"path"})}`.

{taken}## Licence

{licence.terms}

## Intended use

To train and measure generative models of small images. Held-out splits are for measuring: what was trained on `test`
can no longer be measured on it.

## Limits

* {_limit(manifest)}
* One resolution; what is smaller than a pixel of it is lost.{damaged}
"""


def _limit(manifest: Manifest) -> str:
    """What is most easily thought of the source, and not so."""
    source = manifest.data.source
    if source == "omniglot-strokes":
        return "A stand-in drawn by a program: numbers measured on it say nothing of Omniglot."
    if source == "omniglot":
        return "Drawn online by 20 paid workers a character: not how writers of these alphabets write."
    if source == "folder":
        return "Nobody looked at the images for persons, copies or bias but their owner."
    return "Digits of American census workers and students of about 1990: not handwriting at large."
