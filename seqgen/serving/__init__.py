"""A trained model as others use it: loaded by name, served by MLflow. The only place of seqgen that knows MLflow."""
