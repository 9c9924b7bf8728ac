"""`python -m eventcore.cli`, where the script is not on the path."""

from __future__ import annotations

import sys

from eventcore.cli.main import main

sys.exit(main())
