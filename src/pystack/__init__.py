"""pystack: one declarative stack file, a reconciler, and a container engine of its own."""

__version__ = "0.1.0"
