"""What the reader of a page brings along, and what the page's code must have done.

Each module belongs to the page in `docs/` of the same name (with `_` for `-`). Its context manager
`reader()` gives the names that the page's code may use without making them. After the page's last
code it looks at what that made, in the same dict.
"""
