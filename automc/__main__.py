"""`python -m automc` is `automc`, also where the script is not on the path."""

from automc.cli.main import main

main()
