"""Floor 2: per-token negative log-likelihood of any model on any index."""
