"""`python -m peftodyssey` is the command line."""

from peftodyssey.cli.main import main

if __name__ == "__main__":
    main()
