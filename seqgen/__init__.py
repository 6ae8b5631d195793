"""Sequential generative models (Rezende et al., ICML 2016) in plain PyTorch."""

__version__ = "0.1.0"
