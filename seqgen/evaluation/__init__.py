"""Bounds with standard errors, picture sheets and curves of a trained model."""
