"""How numbers, texts, tokens and charts are shown: what the sections of measures and the report share."""
