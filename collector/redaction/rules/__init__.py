"""The built-in rules: one file per family, each with a tuple called ``RULES``. Adding a family is adding a file."""
