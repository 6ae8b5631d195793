"""The operations of a step, one function each: the equation in torch, and for most a fused version for CPUs."""

from seqgen.ops.affine import affine_sample
from seqgen.ops.axis_aligned import axis_aligned_matrix, axis_aligned_sample
from seqgen.ops.filterbank import filter_bank, filter_centres, filterbank_read, filterbank_write, full_stride
from seqgen.ops.gated_canvas import cgru
from seqgen.ops.gaussian import LOG_STD_RANGE, draw, gaussian_kl, standard_normal_kl
from seqgen.ops.lstm_cell import lstm
from seqgen.ops.precision import full_precision
from seqgen.ops.products import Repeated, linear

__all__ = [
    "LOG_STD_RANGE",
    "Repeated",
    "affine_sample",
    "axis_aligned_matrix",
    "axis_aligned_sample",
    "cgru",
    "draw",
    "filter_bank",
    "filter_centres",
    "filterbank_read",
    "filterbank_write",
    "full_precision",
    "full_stride",
    "gaussian_kl",
    "linear",
    "lstm",
    "standard_normal_kl",
]
