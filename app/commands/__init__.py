"""What the command line does, one command a module; `app/cli.py` is the door."""
