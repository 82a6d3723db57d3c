"""The recipe in words: schema, human numbers, grid, identity. Imports floor 0 of the package alone."""
