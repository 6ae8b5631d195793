"""One verb a file, beside them the rooms they share. The only place that knows Ray and DVC, tracks and registers."""
