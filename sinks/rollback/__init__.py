"""Taking a candidate back: one adapter a file, and the verification that it worked."""
