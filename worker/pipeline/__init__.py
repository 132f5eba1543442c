"""What runs in a worker: plan, submit, recover, poll."""
