"""``python -m moditalker`` is ``moditalker``."""

from __future__ import annotations

from moditalker.cli import main

if __name__ == "__main__":
    main()
