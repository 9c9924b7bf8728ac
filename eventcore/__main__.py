"""`python -m eventcore` is the command `eventcore`."""

from __future__ import annotations

import sys

from eventcore.cli.main import main

sys.exit(main())
