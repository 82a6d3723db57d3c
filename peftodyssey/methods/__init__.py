"""Floor 1: the constraint on the update: one file a method, one table. Checking and counting import no torch."""
