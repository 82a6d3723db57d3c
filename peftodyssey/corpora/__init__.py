"""Floor 1: text to documents, documents to an index of tokens, an index to training blocks."""
