"""`python -m worker`: the same as the `evalworker` command."""

from worker.cli import main

main()
