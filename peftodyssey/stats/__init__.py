"""Floor 3: numpy in, numbers out: intervals, ledgers, selection. No torch, no disk."""
