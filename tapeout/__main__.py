"""`python -m tapeout` and the `tapeout` command."""

from tapeout.cli import run


def main() -> None:
    """Run the command line."""
    run()


if __name__ == "__main__":
    main()
