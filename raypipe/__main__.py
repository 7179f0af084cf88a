"""`python -m raypipe`: the same as the console script."""

from raypipe.cli import main

if __name__ == "__main__":
    main()
