"""The commands of `piscope`, a module each; piscope/cli.py names them."""
