"""Raw data to shards: fetch, read, split, shard, verify. No Ray, and torch only as webdataset brings it (`shard`)."""
