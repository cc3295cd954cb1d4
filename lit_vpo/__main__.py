"""`python -m lit_vpo`."""

from lit_vpo.cli import main

if __name__ == "__main__":
    main()
