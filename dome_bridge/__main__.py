"""`python -m dome_bridge` is the same as `dome-bridge`."""

from dome_bridge.cli import main

if __name__ == "__main__":
    main()
