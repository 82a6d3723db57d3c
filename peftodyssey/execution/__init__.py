"""Who does it and when: the scheduler, the local executor, progress."""
