"""Per-token negative log-likelihood of any model on any index."""
