"""Recognisability and diversity of samples (Boutin et al. 2022): the critics, how they learn, what they say."""

from seqgen.evaluation.recognition.characters import (
    Characters,
    Exemplars,
    by_character,
    random_exemplars,
    typical_exemplars,
)
from seqgen.evaluation.recognition.critics import Critics, load_critics, read_description, save_critics
from seqgen.evaluation.recognition.measures import (
    WAYS,
    Judgement,
    draw_samples,
    judge,
    one_shot_rates,
    originality,
    recognition_rates,
)
from seqgen.evaluation.recognition.networks import Conv4, Embedding, Recogniser, encode
from seqgen.evaluation.recognition.training import Plan, keeper, train_embedding, train_recogniser

__all__ = [
    "WAYS",
    "Characters",
    "Conv4",
    "Critics",
    "Embedding",
    "Exemplars",
    "Judgement",
    "Plan",
    "Recogniser",
    "by_character",
    "draw_samples",
    "encode",
    "judge",
    "keeper",
    "load_critics",
    "one_shot_rates",
    "originality",
    "random_exemplars",
    "read_description",
    "recognition_rates",
    "save_critics",
    "train_embedding",
    "train_recogniser",
    "typical_exemplars",
]
