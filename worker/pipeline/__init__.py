"""Do a worker's work: plan, submit, recover and poll batches."""
