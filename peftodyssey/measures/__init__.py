"""What is measured: one folder a measure. `registry` lists them; `measure` says what a measure is."""
