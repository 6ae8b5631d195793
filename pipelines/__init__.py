"""One verb a file; rooms beside them say what they hold. The only place that knows Ray, MLflow, DVC and S3."""
