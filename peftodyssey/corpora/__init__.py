"""Text to documents, documents to an index of tokens, an index to training blocks."""
