"""Floor 1: what is on disk: folders, manifests, tables, and reading them back."""
