"""The names that a documentation page expects its reader to have, and checks of its results.

Each module belongs to the page in `docs/` of the same name (with `_` for `-`). Its context manager
`reader()` yields the names that the page's code uses without defining them. After the page's last
code it checks the objects that the code has made, in the same dict.
"""
