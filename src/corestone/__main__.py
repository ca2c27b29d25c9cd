"""`python -m corestone`, which is also how torchrun starts a run on several ranks."""

from corestone.cli.main import main

if __name__ == "__main__":
    main()
