"""``python -m sousvit``."""

from sousvit.cli import main

if __name__ == "__main__":
    main()
