"""Floor 2: one training loop for every method, and the bridge to TRL that is its oracle. May import floors
0 and 1.
"""
