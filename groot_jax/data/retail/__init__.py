"""The built-in corpus: generated queries of invented shops, with their labels."""
