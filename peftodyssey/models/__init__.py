"""Base models: where they are, what they are made of, how they are loaded and quantised."""
