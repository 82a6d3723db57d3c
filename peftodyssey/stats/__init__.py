"""Statistics as arithmetic on numpy arrays: intervals, breakdowns, selection. No torch, no files."""
