"""MLflow runs: open and close them, send metrics without waiting, say from which data, settings and code they came."""
