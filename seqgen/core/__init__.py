"""What everything stands on: errors, files, locks, the machine, strict settings, YAML. Knows no torch."""
