"""The command line. Each verb parses its options, calls one function of `api` and prints."""
