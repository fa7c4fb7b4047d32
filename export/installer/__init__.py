"""What a bundle carries to install itself on a board: install.sh and install.py."""
