"""Bounds on log p(x): the free energy (eq. 8) and the importance-weighted bound."""

from seqgen.objectives.free_energy import free_energy
from seqgen.objectives.importance import importance_weighted

__all__ = ["free_energy", "importance_weighted"]
