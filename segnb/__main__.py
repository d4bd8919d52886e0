"""``python -m segnb``, and what ``accelerate launch -m segnb`` runs on every process."""

import sys

from segnb.cli import main

sys.exit(main())
