"""The machine that a job runs on: processes, files, memory. Knows nothing of models or data."""
