"""Floor 2.5: what one training step takes in memory, from sizes alone; starts without torch."""
