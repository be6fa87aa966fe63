"""`python -m captum_vit`."""

from .cli import main

if __name__ == "__main__":
    main()
