"""From a recipe to a graph of tasks with memory and disk; starts without torch."""
