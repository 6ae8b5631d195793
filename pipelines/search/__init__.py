"""The search over settings with Ray Tune: the space, a trial, what is written down, how it ends."""
