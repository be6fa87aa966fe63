"""`python -m captum_vit`."""

from .cli.app import main

if __name__ == "__main__":
    main()
