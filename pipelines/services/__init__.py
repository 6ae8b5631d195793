"""Tracking and storage of one's own on one machine: PostgreSQL, an S3 server, and MLflow's server on both."""
