"""``python -m charlm``."""

from charlm.commands import main

if __name__ == "__main__":
    main()
