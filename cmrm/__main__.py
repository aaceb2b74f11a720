"""`python -m cmrm`."""

from .cli import main

main()
