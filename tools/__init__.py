"""Tools for the developers of this package; not part of the wheel."""
