"""`python -m offnominal.cli`."""

from offnominal.cli import main

main()
