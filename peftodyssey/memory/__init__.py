"""What one training step takes in memory, from sizes alone; starts without torch."""
