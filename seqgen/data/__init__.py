"""The shard contract (settings, manifest, samples; no torch) and its reader: order from (seed, epoch, step)."""
