"""The model registry: versions, aliases, promotion, and what a registered model is made of."""
