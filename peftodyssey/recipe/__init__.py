"""Floor 0: the recipe in words: schema, human numbers, grid, identity. Imports nothing of the package but errors."""
