"""`python -m jetmem`."""

from jetmem.cli import main

main()
