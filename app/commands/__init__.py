"""The commands, one in each module. `app/cli.py` calls them."""
