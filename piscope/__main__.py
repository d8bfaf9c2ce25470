"""`python -m piscope`."""

from piscope.cli import main

if __name__ == "__main__":
    main()
