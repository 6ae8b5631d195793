"""Ray: reach or start a cluster, drive its workers, keep their checkpoints."""
