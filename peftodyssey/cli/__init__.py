"""Floor 8: the command line. Each verb parses its options, calls one function of `api` and prints."""
