"""A labeler behind HTTP: requests to batches, batches to answers, and what is counted of them."""
