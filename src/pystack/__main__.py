"""`python -m pystack` is the `pystack` command."""

import sys

from pystack.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
