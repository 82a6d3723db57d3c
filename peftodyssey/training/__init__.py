"""One training loop for every method, and the bridge to TRL that is its oracle."""
