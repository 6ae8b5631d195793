"""How a verb is called: the list of all, options, exit codes, signals, progress, subprocesses."""
