"""`python -m largebatch`, which the launcher also uses to start its worker processes."""

import sys

from largebatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
