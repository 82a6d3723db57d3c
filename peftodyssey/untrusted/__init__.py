"""Input of strangers: how much it may take, headers that are read with care, and programs that it contains."""
