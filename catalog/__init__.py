"""Which models there are, what they can do, and which backend serves them."""
