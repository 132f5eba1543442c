"""Entry point of `python -m worker`, which is the `evalworker` command."""

from worker.cli import main

main()
