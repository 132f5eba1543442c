"""Run the `evalworker` command by `python -m worker`."""

from worker.cli import main

main()
