"""Times convolutions on every backend you have and says how close each is to what the machine can do."""

__version__ = "0.1.0"
