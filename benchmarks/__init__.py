"""Figures of docs/performance.md, measured; the textbook models that are the oracle and the baseline."""
