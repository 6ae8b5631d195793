"""Raw data to shards: fetch, read, split, shard, verify. Knows neither torch nor Ray."""
