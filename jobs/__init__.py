"""The life cycle of a long-running job: processes, signals, its folder, checkpoints on the way, resume, report."""
