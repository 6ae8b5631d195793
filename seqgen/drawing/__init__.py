"""Pictures of what a model does: samples, exemplars, reconstructions, the canvas over time, curves."""
