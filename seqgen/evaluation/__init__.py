"""Bounds of a trained model on held-out images, in nats, with standard errors."""
