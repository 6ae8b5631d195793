"""Lossless compression with bits back: a model of Gaussian latents; images <-> bytes."""

from seqgen.compression.bits_back import decode, encode
from seqgen.compression.container import Header, unpack

__all__ = ["Header", "decode", "encode", "unpack"]
