"""`python -m visionlora.cli`."""

import sys

from visionlora.cli import main

sys.exit(main())
