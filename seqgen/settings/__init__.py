"""Every setting of a run, checked as a whole: a recipe."""

from seqgen.settings.recipe import *  # noqa: F403
