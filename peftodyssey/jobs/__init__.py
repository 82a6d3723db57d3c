"""Floor 4: one file a job: index a text, score, adapt, export. Each reads inputs, makes one call and commits."""
