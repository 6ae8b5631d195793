"""What everything stands on: errors, files, locks, the machine, settings files. Knows no torch."""
