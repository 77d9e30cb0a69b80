"""`python -m visionlora` is the command `visionlora`."""

import sys

from visionlora.cli import main

sys.exit(main())
