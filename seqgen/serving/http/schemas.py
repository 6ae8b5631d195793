"""The JSON of requests and answers, as OpenAPI describes it; limits that a server sets are checked later."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from seqgen.core.strict import Seed, Strict
from seqgen.serving.http.images import Format
from seqgen.serving.http.limits import Limits

_PNG = {
    "type": "object",
    "properties": {
        "png": {"type": "string", "description": "base64 of a PNG of the model's size, dark on light"}
    },
    "required": ["png"],
}
_ROWS = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
    "description": "H rows of W numbers, 1 = ink",
}
_ONE = {"oneOf": [_PNG, _ROWS]}
Image = Annotated[Any, WithJsonSchema(_ONE)]
Images = Annotated[Any, WithJsonSchema({"oneOf": [_PNG, _ROWS, {"type": "array", "items": _ONE}]})]

_Temperature = Annotated[float, Field(ge=0, le=2, description="multiplies the prior's noise; 1: as trained")]
_Form = Annotated[Format, Field(description="of the images in the answer")]
_Context = Annotated[
    Images, Field(description="one drawing, or several of one character; conditional models only")
]


class ExemplarsRequest(Strict):
    """New drawings of the character of `context`; conditional models only."""

    context: _Context
    samples: int = 20
    seed: Seed = 0
    temperature: _Temperature = 1.0
    format: _Form = "png"


class SamplesRequest(Strict):
    """Drawings from the prior; unconditional models only."""

    samples: int = 20
    seed: Seed = 0
    temperature: _Temperature = 1.0
    format: _Form = "png"


class WalkRequest(Strict):
    """The way from the drawing of one seed to that of another through the latent variables."""

    seed_from: Seed
    seed_to: Seed
    frames: Annotated[int, Field(ge=2)] = 9
    context: _Context = None
    temperature: _Temperature = 1.0
    format: _Form = "png"


class TraceRequest(Strict):
    """Drawings watched step by step: from the posterior of each image of `x`, or `samples` from the prior."""

    x: Annotated[Images, Field(description="images whose drawing is inferred")] = None
    context: _Context = None
    samples: int = 1
    seed: Seed = 0
    temperature: Annotated[
        _Temperature, Field(description="multiplies the prior's noise; 1: as trained, and with x")
    ] = 1.0
    format: _Form = "png"


class NllRequest(Strict):
    """-L_k of every image of `x`: above -log p(x) in the mean, the less the larger k = `num_samples`."""

    x: Images
    context: _Context = None
    num_samples: int = 100
    seed: Seed = 0


class ImputeRequest(Strict):
    """Missing pixels drawn anew by a Markov chain of `steps`, from `samples` independent chains."""

    x: Image
    missing: Annotated[Image, Field(description="1, or dark in a PNG, where a pixel is missing")]
    context: _Context = None
    steps: int = 100
    samples: int = 1
    seed: Seed = 0
    format: _Form = "png"


class Refused(BaseModel):
    """Why a request was not answered as asked."""

    error: str


class HeldOutSet(BaseModel):
    """The set whose held-out drawings are shown, and whether the model's training left them out."""

    count: Annotated[int, Field(description="drawings at hand")]
    largest: Annotated[int, Field(description="of one character, that which has the most; 0: unknown")]
    source: Annotated[str, Field(description="the set's `data.source`")]
    title: str
    split: str
    digest: Annotated[str, Field(description="sha256 of its manifest")]
    trained_on: Annotated[
        str | None, Field(description="sha256 of the manifest that the model was trained on; null: not known")
    ]
    unseen: Annotated[
        bool,
        Field(
            description="whether these are the same: else the model may have seen the drawings in training"
        ),
    ]


class ModelAnswer(BaseModel):
    """What is served, and what may be asked of it."""

    name: str
    version: str | None
    source: str
    height: int
    width: int
    steps: int
    conditional: bool
    binary: Annotated[bool, Field(description="whether the likelihood is of pixels that are 0 or 1")]
    imputation: Annotated[bool, Field(description="whether /v1/impute can be asked")]
    attention: Annotated[bool, Field(description="whether a trace from the prior has windows")]
    gaussian: Annotated[bool, Field(description="whether a temperature and /v1/walk can be asked")]
    held_out: Annotated[HeldOutSet | None, Field(description="the held-out drawings; null: there are none")]
    limits: Limits
    parameters: int


class ImagesAnswer(BaseModel):
    """Images in the form asked for, and what they were made with."""

    images: list[Image]
    seed: int
    temperature: float
    model: str


class WalkAnswer(BaseModel):
    """Images from the first end to the second."""

    images: list[Image]
    temperature: float
    model: str


Corners = list[tuple[float, float]]
Windows = Annotated[
    list[list[list[Corners]]] | None,
    Field(description="by step, by sample: the windows, each its four corners (x, y) in pixels; null: none"),
]


class TraceAnswer(BaseModel):
    """Every list is by step, then by sample."""

    steps: list[list[Image]]
    read: Windows
    write: Windows
    context_read: Windows
    kl: Annotated[list[list[float]] | None, Field(description="nats; null without x")]
    model: str


class NllAnswer(BaseModel):
    """Nats, one number an image."""

    nll: list[float]
    model: str


class ImputeAnswer(BaseModel):
    """The last state of each chain, and the mean over chains and the last half of their steps."""

    images: list[Image]
    mean: Image
    model: str


class HeldOutAnswer(BaseModel):
    """Held-out drawings: of one character, beside one to be given as context, or of any."""

    context: Image | None = None
    drawings: list[Image]
    concept: str | None = None
