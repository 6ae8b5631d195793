"""Sheets of one-shot generation: the paper's figures 6, 9, 10 and 11, and samples beside the nearest training image."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.data.settings import Pairs
from seqgen.drawing.composing import SMALL, centred, mosaics, stacked
from seqgen.drawing.galleries import exemplar_rows, scaled, tiles
from seqgen.drawing.pictures import FRAME, PAPER, Row, Sheet, render
from seqgen.evaluation.bounds import HeldOut, first_of_each, subset
from seqgen.evaluation.copies import Nearest
from seqgen.models import SequentialModel

COUNTS = (1, 2, 5, 10)  # of contexts, in the sheet of the third task
_CPU = torch.device("cpu")
_COLUMNS = 10


class Subject(NamedTuple):
    """What a sheet shows: a model, the held-out drawings with F in nats of each [N], their set's title, the seed."""

    model: SequentialModel
    held_out: HeldOut
    free_energy: Tensor
    data: str
    seed: int
    temperature: float = 1.0  # scales the prior's noise

    def drawn(self, count: int, purpose: str, context: Tensor | None = None) -> Tensor:
        """See `draw`."""
        return draw(self.model, count, self.seed, purpose, context, self.temperature)


@torch.no_grad()
def draw(
    model: SequentialModel,
    count: int,
    seed: int,
    purpose: str,
    context: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int = 500,
) -> Tensor:
    """`count` means of p(x | c_T), z from the prior, [count,1,H,W] on the CPU; drawing i is given context i mod B.

    `temperature` multiplies the prior's noise.
    """
    device = next(model.parameters()).device
    noise = temperature * model.noise(count, generator_at(_CPU, seed, purpose))
    parts = []
    for number in torch.arange(count).split(chunk):
        given = None if context is None else context[number % len(context)].to(device).float()
        parts.append(model.sample(noise[:, number].to(device), given).cpu())
    return torch.cat(parts)


def unconditional(subject: Subject, how: str) -> Image.Image:
    """Figure 6: samples of a model that is shown nothing; `how` says which."""
    model, count = subject.model, _COLUMNS * _COLUMNS
    context = (
        torch.zeros(count, 0, model.sizes.height, model.sizes.width) if model.config.conditional else None
    )
    images = tiles(subject.drawn(count, "figure 6", context))
    sheet = Sheet(
        [Row(images[start : start + _COLUMNS]) for start in range(0, count, _COLUMNS)],
        title="Characters drawn from the prior",
        caption=f"{subject.data}. {count} {model.step.observation.pictures}, T = {model.config.steps}; {how}. "
        + _seed(subject),
    )
    return stacked([render(sheet), *likely(subject)])


def exemplars(subject: Subject, title: str, columns: int = _COLUMNS) -> Image.Image:
    """Figures 9 and 10: one drawing each of `columns` held-out characters, below it samples given that alone."""
    first = first_of_each(subject.held_out.concepts)
    chosen = first[subset(len(first), columns, subject.seed, "exemplars")]
    context = subject.held_out.x[chosen]
    drawn = subject.drawn(_COLUMNS * len(chosen), "exemplars", context)
    sheet = Sheet(
        exemplar_rows(tiles(context), tiles(drawn)),
        title=title,
        caption=f"{subject.data}. In the frame: one held-out drawing x' of a character never seen. Below it: means of "
        f"p(x | c_T), T = {subject.model.config.steps}, given that drawing alone{scaled(subject.temperature)}. "
        f"{_seed(subject)}",
    )
    return stacked([render(sheet), *likely(subject, len(chosen))])


def from_several(
    subject: Subject, given: HeldOut, pairs: Pairs, groups: int = 3, samples: int = 7
) -> Image.Image:
    """Figure 11: samples given 1, 2, 5 and 10 drawings of one character or, by `pairs`, characters of one alphabet.

    The contexts are chosen among `given`, the whole split.
    """
    shown = contexts_of(given, pairs, groups, subject.seed)
    counts = [count for count in COUNTS if count <= min(map(len, shown))]
    places = (max(counts) + 3) // 4
    rows: list[Row] = []
    for group, index in enumerate(shown):
        for count in counts:
            context = given.x[index[:count]].transpose(0, 1)
            drawn = subject.drawn(samples, f"figure 11, {group}", context)
            left = mosaics(given.x[index[:count]])
            right = [centred(PAPER, image, *left[0].size) for image in tiles(drawn, 2 * SMALL)]
            empty = [None] * (places - len(left))
            gap = 0 if not rows else 30 if count == counts[0] else 8
            rows.append(Row([*left, *empty, *right], str(count), gap))
    what = "characters of an alphabet" if pairs == "alphabet" else "drawings of a character"
    sheet = Sheet(
        rows,
        title=f"New {what}, given 1 to {counts[-1]} of it",
        caption=f"{subject.data}. In frames: the contexts, held-out {what}; on the left how many. Beside them: "
        f"means of p(x | c_T), T = {subject.model.config.steps}, given these alone; the same noise for every number. "
        f"{_seed(subject)}",
    )
    return stacked([render(sheet), *likely(subject, 14)])


def contexts_of(held_out: HeldOut, pairs: Pairs, groups: int, seed: int) -> list[Tensor]:
    """The images that are contexts in each of `groups` random groups, at most 10, in random order: int64.

    pairs=character: drawings of one character. alphabet: one drawing each of different characters of one alphabet.
    """
    within = held_out.alphabets if pairs == "alphabet" else held_out.concepts
    if within is None:
        raise BadInput("pairs=alphabet: the set has no alphabets; use Omniglot")
    order = torch.randperm(len(held_out), generator=generator_at(_CPU, seed, "contexts shown"))
    result = []
    for group in within[order][first_of_each(within[order])][:groups]:
        members = order[within[order] == group]
        if pairs == "alphabet":
            members = members[first_of_each(held_out.concepts[members])]
        result.append(members[: COUNTS[-1]])
    return result


def likely(subject: Subject, count: int = _COLUMNS) -> list[Image.Image]:
    """The held-out drawings that the model finds most and least likely, at most one of a character, with their F."""
    order = subject.free_energy.argsort(stable=True)
    held_out = subject.held_out
    result = []
    for word, ranked in (("Most", order), ("Least", order.flip(0))):
        chosen = ranked[first_of_each(held_out.concepts[ranked])][:count]
        rows, given = [Row(tiles(held_out.x[chosen]))], ""
        if held_out.context is not None and held_out.context.shape[1]:
            framed = Row(tiles(held_out.context[chosen]), "x'", 6, FRAME)
            rows, given = [framed, replace(rows[0], label="x", gap=10)], " given x'"
        sheet = Sheet(
            rows,
            title=f"{word} likely held-out drawings",
            caption=f"Above each drawing x its F{given} in nats, which bounds -log p from above. "
            f"Of {len(held_out):,} drawings, at most one of a character.",
            heads=[f"{value:.1f}" for value in subject.free_energy[chosen].tolist()],
        )
        result.append(render(sheet))
    return result


def beside_training(
    drawn: Tensor,
    held_out: HeldOut,
    training: Tensor,
    of_drawn: Nearest,
    of_people: Nearest,
    data: str,
    seed: int,
) -> Image.Image:
    """Samples `drawn` uint8 [N,1,H,W], one for each context of `held_out`, and the nearest of `training` [M,H,W].

    Ten at random, the ten nearest of all, and the people's drawings that belong to the first.
    """
    assert held_out.context is not None
    some = subset(len(drawn), _COLUMNS, seed, "beside training")
    closest = of_drawn.distance.argsort(stable=True)[:_COLUMNS]
    how = (
        f"{data}. In the frame: what each sample was given. Above: how far sample and training image are "
        f"apart, in pixels as a share of the ink of both. Seed {seed}, not selected."
    )
    sections = (
        ("Samples beside the nearest training image", how, some, drawn, "sample", of_drawn),
        (f"The ten nearest of {len(drawn):,} samples", "", closest, drawn, "sample", of_drawn),
        ("People's drawings of the first ten characters", "", some, held_out.x, "person", of_people),
    )
    sheets = []
    for title, caption, index, shown, label, near in sections:
        rows = [
            Row(tiles(held_out.context[index]), "x'", 6, FRAME),
            Row(tiles(shown[index]), label, gap=10),
            Row(tiles(training[near.index[index]].unsqueeze(1)), "training"),
        ]
        heads = [f"{100 * value:.0f} %" for value in near.distance[index].tolist()]
        sheets.append(render(Sheet(rows, title, caption, heads)))
    return stacked(sheets)


def _seed(subject: Subject) -> str:
    return f"Seed {subject.seed}, not selected."
