"""One member's equations each: what happens in one step t."""
