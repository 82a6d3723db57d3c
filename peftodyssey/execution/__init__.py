"""Floor 5: who does it and when: the scheduler, the local executor, progress."""
