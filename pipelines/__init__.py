"""One verb a file: composes data_prep and seqgen with Ray, MLflow and S3."""
