"""Methods of adapting a model, one file each, listed in `registry`. Checking and counting import no torch."""
