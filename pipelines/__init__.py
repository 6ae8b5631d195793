"""One verb a file; what they share is in `support`. The only place that knows Ray and DVC, tracks and registers."""
