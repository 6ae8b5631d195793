"""What the stages leave on disk, where it lies and what a report makes of it."""
