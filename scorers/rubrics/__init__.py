"""The built-in rubrics, one file each: they need no key, no model and no network."""
