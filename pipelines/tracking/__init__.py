"""MLflow runs: open and close them, send metrics without waiting, say where they came from."""
