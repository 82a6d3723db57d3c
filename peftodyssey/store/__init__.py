"""What is on disk: folders, manifests, tables, and reading them back."""
