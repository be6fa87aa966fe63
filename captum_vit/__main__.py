"""`python -m captum_vit`."""

from .cli import main

main()
