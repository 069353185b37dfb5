"""Launcher for a checkout: ``python cli.py train …`` is ``charlm train …``."""

from charlm.commands import main

if __name__ == "__main__":
    main()
