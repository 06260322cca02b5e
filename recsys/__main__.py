"""`python -m recsys` is the `recsys` command."""

import sys

from recsys.operations.cli.main import main

sys.exit(main())
