"""What the verbs share: recipes and places, Ray, MLflow, storage, the registry."""
