"""The machine that a job runs on: files. Knows nothing of models or data."""
