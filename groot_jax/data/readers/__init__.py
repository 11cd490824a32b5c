"""Files and data sets as sentences, one reader a file format. Knows no tokenizer."""
