import sys

from simulation.running import main

if __name__ == "__main__":
    sys.exit(main())
