"""How a verb is called: its options, its exit code, signals, progress, subprocesses."""
